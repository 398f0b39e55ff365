"""The overview dashboard: is the service well, is the model well, and which layer is not."""

from __future__ import annotations

from panels import Panel, Query, Row, dashboard
from queries import ANNOTATIONS, BY_MODEL, MODEL, OF_A_TAP, OF_TAPS, SITE, layers, model, rate, tap

TRAFFIC = Row("Traffic", (
    Panel(
        "Requests",
        "Inference requests answered each second, by gRPC status. Good: nearly all of them OK.",
        "reqps", (rate("sidecar_requests_total", f"{BY_MODEL} {{{{code}}}}", also="code"),), 8, low=0,
    ),
    Panel(
        "Error ratio",
        "Share of requests that did not end OK, and the share that is the server's fault; empty without "
        "requests. Good: 0. SidecarErrorRateHigh fires when the server's share stays above 5%.",
        "percentunit",
        (
            model("model:sidecar_request_errors:ratio_rate1m", "max", f"{BY_MODEL} all"),
            model("model:sidecar_request_faults:ratio_rate1m", "max", f"{BY_MODEL} server's fault"),
        ),
        8, low=0, steps=((0.05, "red"),),
    ),
    Panel(
        "Latency",
        "Median and 99th percentile of the time from a request's arrival to its reply, in the slowest "
        "instance; empty without requests. Good: flat, and p99 within a few times the median.",
        "s",
        (
            model("model:sidecar_request_duration_seconds:p50_rate1m", "max", f"{BY_MODEL} p50"),
            model("model:sidecar_request_duration_seconds:p99_rate1m", "max", f"{BY_MODEL} p99"),
        ),
        8, low=0,
    ),
))  # fmt: skip

STATE = Row("State now", (
    Panel(
        "Layers drifting",
        "Taps between their alarm and the end of their evidence. Good: 0.",
        "short", (Query(f"sum(sidecar_drift_active{{{SITE}}})", "layers"),), 4, "stat", steps=((1, "red"),),
    ),
    Panel(
        "Drift in the last hour",
        "Share of the last hour with material drift, worst model. Good: 0. From 14.4% on, and if it goes on, "
        "SidecarDriftBurnFast wakes somebody.",
        "percentunit", (Query(f"max(model:sidecar_drift_material:ratio_1h{{{MODEL}}})", "of an hour"),),
        4, "stat", steps=((0.01, "orange"), (0.144, "red")),
    ),
    Panel(
        "Model evidence",
        "Evidence that the model as a whole drifts, as a share of its alarm level; empty until the reference "
        "is ready. Good: below 80%. It creeps up with the logarithm of the requests seen even without drift.",
        "percentunit", (Query(f"max(model:sidecar_drift_evidence:level_ratio{{{MODEL}}})", "of the alarm level"),),
        4, "stat", steps=((0.8, "orange"), (1, "red")),
    ),
    Panel(
        "Non-finite values, 5 min",
        "NaN, +Inf and -Inf among the observed activations of the last five minutes. Good: 0, always.",
        "short", (Query(f"sum(tap:sidecar_activation_nonfinite:increase5m{{{SITE}}})", "values"),),
        4, "stat", steps=((1e-9, "red"),),
    ),
    Panel(
        "Telemetry share",
        "Time telemetry takes, divided by the time spent running the model; empty without requests. Good: "
        "below 1%; SidecarTelemetryOverBudget fires when it stays above 5%.",
        "percentunit", (Query(f"max(model:sidecar_telemetry_seconds:share_rate1m{{{MODEL}}})", "of inference"),),
        4, "stat", steps=((0.01, "orange"), (0.05, "red")),
    ),
    Panel(
        "Instrumented",
        "Whether every chosen model runs a variant that is watched. Good: yes.",
        "none", (Query(f"min(sidecar_instrumented{{{MODEL}}})", "instrumented"),),
        2, "stat", base="red", steps=((1, "green"),), words=("no", "yes"),
    ),
    Panel(
        "Reference",
        "Whether every chosen model has a complete reference to be compared with. Good: ready.",
        "none", (Query(f"min(sidecar_reference_ready{{{MODEL}}})", "reference"),),
        2, "stat", base="orange", steps=((1, "green"),), words=("missing", "ready"),
    ),
))  # fmt: skip

MODEL_ROW = Row("Layers", (
    Panel(
        "Drift evidence, layer by time",
        "Evidence as a share of its alarm level, one row of cells for each layer, the strongest site of it. Good: "
        "pale all over. One dark row is a fault in that layer; everything dark from one row upwards began there.",
        "percentunit", (layers("tap:sidecar_drift_evidence:level_ratio", "max"),), 12, "heatmap", low=0, high=1,
    ),
    Panel(
        "Mean activation, layer by time",
        "Mean activation over drift.window_seconds, one row of cells for each layer, sites averaged; choose "
        "one site above to see it alone. Good: bands that keep their colour.",
        "short", (layers("sidecar_activation_mean", "avg"),), 12, "heatmap", scheme="RdYlBu",
    ),
    Panel(
        "Evidence by layer",
        "The layer's e-detector as a share of its alarm level, both as logarithms; empty until the reference "
        "is ready. Good: wandering below 80%. From 100% on the layer alarms.",
        "percentunit", (tap("tap:sidecar_drift_evidence:level_ratio", "max"),), 12, low=0, steps=((1, "red"),),
        links=OF_A_TAP,
    ),
    Panel(
        "Growth of the largest activation",
        "Largest |x| over drift.window_seconds divided by the reference's, 1 while it is lower only for want of "
        "requests. Good: about 1. Above 4 SidecarActivationExplosion fires, below 0.25 SidecarActivationCollapse.",
        "short", (tap("sidecar_activation_absmax_growth_ratio", "max"),), 12, low=0, steps=((4, "red"),),
        links=OF_A_TAP,
    ),
))  # fmt: skip

OVERVIEW = dashboard(
    "activation-sidecar-overview",
    "Activation sidecar / Overview",
    "Traffic, activations and drift of the models behind an activation sidecar.",
    OF_TAPS,
    ANNOTATIONS,
    (STATE, TRAFFIC, MODEL_ROW),
)
