"""The dashboard of layers: what their activations look like."""

from __future__ import annotations

from panels import Panel, Query, Row, dashboard
from queries import ANNOTATIONS, OF_A_TAP, OF_LAYERS, TAP, TO_NEURON, layers, model, tap, tap_at_instance


def _tap(series: str, over_instances: str, legend: str = "{{model}} {{version}} {{layer}}/{{site}}") -> Query:
    return tap(series, over_instances, within=TAP, legend=legend)


_QUANTILES = ("q01", "q25", "q50", "q75", "q99")

VALUES = Row("Values", (
    Panel(
        "Values",
        "How many observed values fell into each bucket, by time; of all chosen layers, so choose one above. Good: "
        "bands that keep their place. Of a standard Gaussian 68% lie within 1, and two in a thousand million beyond 6.",
        "short",
        (Query(f"sum by (le) (rate(sidecar_activation_value_bucket{{{TAP}}}[$__rate_interval]))", "{{le}}"),),
        12, "buckets",
    ),
    Panel(
        "Quantiles of the values",
        "1st, 25th, 50th, 75th and 99th percentile over five minutes, interpolated within about 22 buckets. Good: "
        "flat bands. A standard Gaussian has them at -2.3, -0.67, 0, 0.67 and 2.3.",
        "short",
        tuple(
            _tap(f"tap:sidecar_activation_value:{quantile}_rate5m", "avg", f"{{{{layer}}}}/{{{{site}}}} {quantile}")
            for quantile in _QUANTILES
        ),
        12, links=OF_A_TAP,
    ),
))  # fmt: skip

BY_TIME = Row("Layer by time", (
    Panel(
        "Mean, layer by time",
        "Mean over drift.window_seconds, a row of cells for each layer, sites averaged. Good: rows that keep their "
        "colour. A change from one row upwards began in that layer.",
        "short", (layers("sidecar_activation_mean", "avg"),), 8, "heatmap", scheme="RdYlBu",
    ),
    Panel(
        "Standard deviation, layer by time",
        "Standard deviation over drift.window_seconds. Good: rows that keep their colour, darker with depth in a "
        "residual stream.",
        "short", (layers("sidecar_activation_stddev", "max"),), 8, "heatmap", low=0,
    ),
    Panel(
        "Largest absolute activation, layer by time",
        "Largest |x| over drift.window_seconds. Good: rows that keep their colour.",
        "short", (layers("sidecar_activation_absmax", "max"),), 8, "heatmap", low=0,
    ),
    Panel(
        "Near-zero ratio, layer by time",
        "Share of values with |x| at most capture.near_zero. Good: rows that keep their colour. A standard Gaussian "
        "has 0.08% at the default of 2^-10, a ReLU of it half.",
        "percentunit", (layers("tap:sidecar_activation_near_zeros:ratio_rate1m", "max"),), 8, "heatmap",
        low=0, high=1, scheme="Blues",
    ),
    Panel(
        "Outlier ratio, layer by time",
        "Share of values with |x| of 6 and more. Good: pale. A standard Gaussian has two in a thousand million.",
        "percentunit", (layers("tap:sidecar_activation_outliers:ratio_rate1m", "max"),), 8, "heatmap", low=0,
    ),
    Panel(
        "Kurtosis, layer by time",
        "Fourth standardised moment. Good: rows that keep their colour. A Gaussian has 3.",
        "short", (layers("sidecar_activation_kurtosis", "max"),), 8, "heatmap", low=0,
    ),
))  # fmt: skip

MOMENTS = Row("Moments", (
    Panel(
        "Mean",
        "Mean over drift.window_seconds. Good: steady. Near 0 before a normalisation, where nothing pushes it away.",
        "short", (_tap("sidecar_activation_mean", "avg"),), 8, links=OF_A_TAP,
    ),
    Panel(
        "Standard deviation",
        "Standard deviation over drift.window_seconds. Good: steady, and rising with depth in a residual stream.",
        "short", (_tap("sidecar_activation_stddev", "avg"),), 8, low=0, links=OF_A_TAP,
    ),
    Panel(
        "Kurtosis",
        "Fourth standardised moment over drift.window_seconds. Good: steady. A Gaussian has 3 (blue line); a few "
        "dominating channels push it beyond 100.",
        "short", (_tap("sidecar_activation_kurtosis", "max"),), 8, low=0, steps=((3, "blue"),), links=OF_A_TAP,
    ),
    Panel(
        "Largest absolute activation",
        "Largest |x| over drift.window_seconds. Good: steady. Massive activations exceed 100 and 1000 times the "
        "median (Sun 2024).",
        "short", (_tap("sidecar_activation_absmax", "max"),), 12, low=0, links=OF_A_TAP,
    ),
    Panel(
        "Crest factor",
        "Largest |x| over the root mean square. Good: steady. 4,096 values of a Gaussian have about 3.7, and more "
        "the more values there are in the window; a layer with massive activations has 20 and more.",
        "short", (_tap("tap:sidecar_activation_absmax:crest", "max"),), 12, low=0, steps=((3.7, "blue"),),
        links=OF_A_TAP,
    ),
))  # fmt: skip

SPARSITY = Row("Sparsity", (
    Panel(
        "Zero ratio",
        "Share of values that are exactly zero. Good: steady. A Gaussian has none; a ReLU of one has half.",
        "percentunit", (_tap("tap:sidecar_activation_zeros:ratio_rate1m", "avg"),), 8, low=0, links=OF_A_TAP,
    ),
    Panel(
        "Near-zero ratio",
        "Share of values with |x| at most capture.near_zero, zeros included. Good: steady. A standard Gaussian "
        "has 0.08% at the default of 2^-10.",
        "percentunit", (_tap("tap:sidecar_activation_near_zeros:ratio_rate1m", "avg"),), 8, low=0, links=OF_A_TAP,
    ),
    Panel(
        "Dead channels",
        "Share of the layer's channels that never fired over drift.window_seconds. Good: steady. With few "
        "requests in the window more channels look dead than are. SidecarDeadUnitsGrowing fires at 5% more in an hour.",
        "percentunit", (_tap("tap:sidecar_activation_dead_channels:ratio", "max"),), 8, low=0, links=OF_A_TAP,
    ),
    Panel(
        "Channels that are always on",
        "Share of the channels of all layers that fired at 99.9% of positions or more. Good: steady. Without a ReLU "
        "nearly all do.",
        "percentunit", (model("sidecar_instability_always_on_ratio", "max"),), 12, low=0,
    ),
    Panel(
        "What a dead channel may hide",
        "95% bound on how often a channel that looks dead fires, or one that looks always on rests, worst layer. "
        "Good: below 1%; above it the window has too few requests to speak of dead channels (3 / positions).",
        "percentunit", (model("sidecar_instability_rate_bound_ratio", "max"),), 12, low=0,
    ),
))  # fmt: skip

OUTLIERS = Row("Outliers", (
    Panel(
        "Outlier ratio",
        "Share of values with |x| of 6 and more (LLM.int8()). Good: steady, and small. A standard Gaussian has "
        "two in a thousand million. SidecarOutlierBurst fires above 0.1% and four times the hour before.",
        "percentunit", (_tap("tap:sidecar_activation_outliers:ratio_rate1m", "avg"),), 12, low=0, links=OF_A_TAP,
    ),
    Panel(
        "Outlier features and massive channels",
        "Channels with |x| of 6 and more at 6% of positions in a quarter of the layers (Dettmers 2022), and channels "
        "beyond 100 and 1000 times the median (Sun 2024). Good: steady. Large language models have a handful.",
        "short",
        (
            model("sidecar_instability_outlier_features", "max", "{{model}} {{version}} outlier features"),
            model("sidecar_instability_massive_channels", "max", "{{model}} {{version}} massive channels"),
        ),
        12, low=0,
    ),
    Panel(
        "Kurtosis over channels",
        "mean(s^4) / mean(s^2)^2 over the root mean squares s of a layer's channels, worst layer (He 2024). Good: "
        "steady. 1 if all channels are alike; with C channels at most C.",
        "short", (model("sidecar_instability_channel_kurtosis", "max"),), 12, low=0, steps=((1, "blue"),),
    ),
    Panel(
        "Churn of the strongest channels",
        "Share of a layer's ten strongest channels that were not among them in the window before, worst layer. Good: "
        "below 30%. Near 100% no channel is strong by itself.",
        "percentunit", (model("sidecar_instability_channel_churn_ratio", "max"),), 12, low=0, high=1,
    ),
))  # fmt: skip

NEURONS = Row("Top neurons", (
    Panel(
        "Channels that moved most, now",
        "Of each layer and instance the channel whose mean moved most from the reference, and how far in standard "
        "deviations of the channel; empty until the reference is ready. Good: shifts within 1, and channels that take "
        "turns.",
        "short",
        (
            tap_at_instance("sidecar_drift_worst_channel", "channel"),
            tap_at_instance("sidecar_drift_worst_channel_shift_sigmas", "shift in sigmas"),
        ),
        12, "table", links=(TO_NEURON,),
    ),
    Panel(
        "Shift of that channel",
        "How far the mean of the channel that moved most lies from the reference, in standard deviations of the "
        "channel. Good: within 1 of 0. The same channel in one layer only speaks of that channel's weights.",
        "short", (tap_at_instance("sidecar_drift_worst_channel_shift_sigmas"),), 12, links=OF_A_TAP,
    ),
))  # fmt: skip

LAYERS = dashboard(
    "activation-sidecar-layers",
    "Activation sidecar / Layers",
    "Values, moments, sparsity and outliers of the layers of a model.",
    OF_LAYERS,
    ANNOTATIONS,
    (VALUES, BY_TIME, MOMENTS, SPARSITY, OUTLIERS, NEURONS),
)
