"""The dashboard of numerics: how near overflow is, what is not finite, and what 8 bits would lose."""

from __future__ import annotations

from panels import Panel, Query, Row, dashboard
from queries import ANNOTATIONS, BY_MODEL, MODEL, OF_A_TAP, OF_LAYERS, SITE, TAP, layers, model, rate, tap

_BY_FORMAT = f"{BY_MODEL} {{{{format}}}}"

NOW = Row("State now", (
    Panel(
        "Non-finite activations, 5 min",
        "NaN, +Inf and -Inf among the observed activations of the last five minutes. Good: 0, always.",
        "short", (Query(f"sum(tap:sidecar_activation_nonfinite:increase5m{{{SITE}}})", "values"),),
        6, "stat", steps=((1e-9, "red"),),
    ),
    Panel(
        "Least float16 headroom",
        "Doublings left before the largest activation of any layer overflows float16. Good: above 3. Below 1, "
        "SidecarHeadroomLow fires for a layer that runs in float16.",
        "short", (Query(f'min(sidecar_instability_headroom_octaves{{{MODEL}, format="float16"}})', "octaves"),),
        6, "stat", base="red", steps=((1, "orange"), (3, "green")),
    ),
    Panel(
        "Largest growth since the reference",
        "Doublings of the root mean square against the reference, worst layer; empty until the reference is ready. "
        "Good: within half a doubling of 0.",
        "short", (Query(f"max(sidecar_instability_rms_growth_octaves{{{MODEL}}})", "octaves"),),
        6, "stat", steps=((0.5, "orange"), (2, "red")),
    ),
    Panel(
        "Lost to e4m3",
        "Share of values that e4m3 would round to 0, each layer scaled by its best power of two, worst layer. Good: "
        "below 1%.",
        "percentunit",
        (Query(f'max(sidecar_instability_scaled_underflow_ratio{{{MODEL}, format="e4m3"}})', "of values"),),
        6, "stat", steps=((0.01, "orange"), (0.1, "red")),
    ),
))  # fmt: skip

HEADROOM = Row("Headroom and growth", (
    Panel(
        "float16 headroom by layer",
        "Doublings left before the largest activation overflows float16 (65504). Good: above 3. Below 1, "
        "SidecarHeadroomLow fires where the layer runs in float16; in bfloat16 or float32 it does not mind.",
        "short", (tap("sidecar_activation_float16_headroom_octaves", "min", within=TAP),), 8, links=OF_A_TAP,
    ),
    Panel(
        "Least headroom by format",
        "Doublings left before the largest activation of any layer overflows: float16 65504, bfloat16 and float32 "
        "3.4e38, e4m3 448, e5m2 57344. Good: above 1 for the format that the model runs in; below 0 it overflows.",
        "short", (model("sidecar_instability_headroom_octaves", "min", _BY_FORMAT, also="format"),), 8,
    ),
    Panel(
        "Growth with depth",
        "Doublings of the root mean square from one layer to the next, on average. Good: steady, and about 0 to 0.3; a "
        "residual stream of independent blocks grows as the square root of the depth.",
        "short", (model("sidecar_instability_depth_growth_octaves", "max"),), 8,
    ),
    Panel(
        "Growth over time",
        "Doublings of the root mean square against the reference and against the window before, worst layer. Good: "
        "around 0.",
        "short",
        (
            model("sidecar_instability_rms_growth_octaves", "max", f"{BY_MODEL} since the reference"),
            model("sidecar_instability_rms_change_octaves", "max", f"{BY_MODEL} since the window before"),
        ),
        12,
    ),
    Panel(
        "Growth of the largest activation",
        "Largest |x| over drift.window_seconds divided by the reference's, 1 while it is lower only for want of "
        "requests. Good: about 1. Above 4 SidecarActivationExplosion fires, below 0.25 SidecarActivationCollapse.",
        "short", (tap("sidecar_activation_absmax_growth_ratio", "max", within=TAP),), 12, low=0, steps=((4, "red"),),
        links=OF_A_TAP,
    ),
))  # fmt: skip

NONFINITE = Row("Non-finite and subnormal", (
    Panel(
        "Non-finite values, layer by time",
        "NaN, +Inf and -Inf each second, a row of cells for each layer. Good: empty. The lowest row is where they "
        "begin; those above carry them on.",
        "cps", (layers("tap:sidecar_activation_nonfinite:rate1m", "sum"),), 8, "heatmap", low=0,
    ),
    Panel(
        "Non-finite values by kind",
        "NaN, +Inf and -Inf among the observed activations, each second. Good: 0, always. Infinities come first where "
        "something overflows, NaN where they meet.",
        "cps", (rate("sidecar_activation_nonfinite_total", f"{BY_MODEL} {{{{kind}}}}", also="kind"),), 8, low=0,
    ),
    Panel(
        "Non-finite inputs",
        "NaN and infinite values in the inputs of requests, each second. Good: 0; models.refuse_nonfinite turns such "
        "requests away.",
        "cps", (rate("sidecar_input_nonfinite_total"),), 8, low=0,
    ),
    Panel(
        "Subnormal ratio",
        "Share of values below the smallest normal one of the tensor's own format. Good: 0; such values lose precision "
        "and are slow on some processors.",
        "percentunit", (tap("tap:sidecar_activation_subnormals:ratio_rate1m", "max", within=TAP),), 24, low=0,
        links=OF_A_TAP,
    ),
))  # fmt: skip

WHAT_IF = Row("What if it ran in 8 bits", (
    Panel(
        "Overflow",
        "Share of values beyond the largest of the format, unscaled, worst layer. Good: 0.",
        "percentunit", (model("sidecar_instability_overflow_ratio", "max", _BY_FORMAT, also="format"),), 6, low=0,
    ),
    Panel(
        "Underflow",
        "Share of values that the format would round to 0, unscaled, worst layer. Good: below 1%.",
        "percentunit", (model("sidecar_instability_underflow_ratio", "max", _BY_FORMAT, also="format"),), 6, low=0,
    ),
    Panel(
        "Subnormal",
        "Share of values that would be subnormal in the format, with fewer bits of precision, unscaled, worst layer. "
        "Good: below 5%.",
        "percentunit", (model("sidecar_instability_subnormal_ratio", "max", _BY_FORMAT, also="format"),), 6, low=0,
    ),
    Panel(
        "Underflow, best scale",
        "The same as underflow, each layer scaled by the largest power of two at which nothing overflows. Good: near "
        "0; then one scale a tensor is enough.",
        "percentunit", (model("sidecar_instability_scaled_underflow_ratio", "max", _BY_FORMAT, also="format"),), 6,
        low=0,
    ),
))  # fmt: skip

NUMERICS = dashboard(
    "activation-sidecar-numerics",
    "Activation sidecar / Numerics",
    "Headroom, growth, non-finite values, and what 8-bit formats would lose.",
    OF_LAYERS,
    ANNOTATIONS,
    (NOW, HEADROOM, NONFINITE, WHAT_IF),
)
