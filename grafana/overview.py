"""The overview dashboard: is the service well, is the model well, and which layer is not."""

from __future__ import annotations

from panels import Panel, Query, Row, Variable, dashboard

_PROCESS = 'job=~"$job", instance=~"$instance"'
_MODEL = f'{_PROCESS}, model=~"$model", version=~"$version"'
_TAP = f'{_MODEL}, site=~"$site"'

_BY_MODEL = "{{model}} {{version}}"
_BY_TAP = "{{model}} {{version}} {{layer}}/{{site}}"


def _model(series: str, over_instances: str, legend: str = _BY_MODEL) -> Query:
    """One line for each model version; `over_instances` joins the processes that serve it."""
    return Query(f"{over_instances} by (model, version) ({series}{{{_MODEL}}})", legend)


def _tap(series: str, over_instances: str) -> Query:
    """One line for each layer and site."""
    expr = f"{over_instances} by (model, version, layer, site) ({series}{{{_TAP}}})"
    return Query(expr, _BY_TAP)


def _layers(series: str, over_the_rest: str) -> Query:
    """One line for each layer, named by its number alone, as the heatmap's rows need it."""
    return Query(f"{over_the_rest} by (layer) ({series}{{{_TAP}}})", "{{layer}}")


TRAFFIC = Row("Traffic", (
    Panel(
        "Requests",
        "Inference requests answered each second, by gRPC status. Good: nearly all of them OK.",
        "reqps",
        (Query(
            f"sum by (model, version, code) (rate(sidecar_requests_total{{{_MODEL}}}[$__rate_interval]))",
            "{{model}} {{version}} {{code}}",
        ),),
        8, low=0,
    ),
    Panel(
        "Error ratio",
        "Share of requests that did not end OK, and the share that is the server's fault; empty without "
        "requests. Good: 0. SidecarErrorRateHigh fires when the server's share stays above 5%.",
        "percentunit",
        (
            _model("model:sidecar_request_errors:ratio_rate1m", "max", f"{_BY_MODEL} all"),
            _model("model:sidecar_request_faults:ratio_rate1m", "max", f"{_BY_MODEL} server's fault"),
        ),
        8, low=0, steps=((0.05, "red"),),
    ),
    Panel(
        "Latency",
        "Median and 99th percentile of the time from a request's arrival to its reply, in the slowest "
        "instance; empty without requests. Good: flat, and p99 within a few times the median.",
        "s",
        (
            _model("model:sidecar_request_duration_seconds:p50_rate1m", "max", f"{_BY_MODEL} p50"),
            _model("model:sidecar_request_duration_seconds:p99_rate1m", "max", f"{_BY_MODEL} p99"),
        ),
        8, low=0,
    ),
    Panel(
        "Rows per batch",
        "Mean number of rows that ran together; empty without requests. Good: near 1 when idle, rising with "
        "the load towards batching.max_rows.",
        "short", (_model("model:sidecar_batch_rows:mean_rate1m", "avg"),), 8, low=0,
    ),
    Panel(
        "Queue length",
        "Requests that wait for a batch now. Good: far below batching.queue_requests; at that limit new "
        "requests are refused.",
        "short", (_model("sidecar_queue_requests", "sum"),), 8, low=0,
    ),
    Panel(
        "Time in the queue",
        "99th percentile of the wait for a batch to start; empty without requests. Good: about "
        "batching.max_delay_ms plus the time of the batch that runs.",
        "s", (_model("model:sidecar_queue_duration_seconds:p99_rate1m", "max"),), 8, low=0,
    ),
))  # fmt: skip

STATE = Row("State now", (
    Panel(
        "Layers drifting",
        "Taps between their alarm and the end of their evidence. Good: 0.",
        "short", (Query(f"sum(sidecar_drift_active{{{_TAP}}})", "layers"),),
        4, "stat", steps=((1, "red"),),
    ),
    Panel(
        "Non-finite values, 5 min",
        "NaN, +Inf and -Inf among the observed activations of the last five minutes. Good: 0, always.",
        "short", (Query(f"sum(tap:sidecar_activation_nonfinite:increase5m{{{_TAP}}})", "values"),),
        5, "stat", steps=((1e-9, "red"),),
    ),
    Panel(
        "Model evidence",
        "Evidence that the model as a whole drifts, as a share of its alarm level; empty until the reference "
        "is ready. Good: below 80%. It creeps up with the logarithm of the requests seen even without drift.",
        "percentunit", (Query(f"max(model:sidecar_drift_evidence:level_ratio{{{_MODEL}}})", "of the alarm level"),),
        4, "stat", steps=((0.8, "orange"), (1, "red")),
    ),
    Panel(
        "Telemetry share",
        "Time telemetry takes, divided by the time spent running the model; empty without requests. Good: "
        "below 1%; SidecarTelemetryOverBudget fires when it stays above 5%.",
        "percentunit", (Query(f"max(model:sidecar_telemetry_seconds:share_rate1m{{{_MODEL}}})", "of inference"),),
        4, "stat", steps=((0.01, "orange"), (0.05, "red")),
    ),
    Panel(
        "Instrumented",
        "Whether every chosen model runs a variant that is watched. Good: yes.",
        "none", (Query(f"min(sidecar_instrumented{{{_MODEL}}})", "instrumented"),),
        4, "stat", base="red", steps=((1, "green"),), words=("no", "yes"),
    ),
    Panel(
        "Reference",
        "Whether every chosen model has a complete reference to be compared with. Good: ready.",
        "none", (Query(f"min(sidecar_reference_ready{{{_MODEL}}})", "reference"),),
        3, "stat", base="orange", steps=((1, "green"),), words=("missing", "ready"),
    ),
))  # fmt: skip

DRIFT = Row("Drift", (
    Panel(
        "Evidence by layer",
        "The layer's e-detector as a share of its alarm level, both as logarithms; empty until the reference "
        "is ready. Good: wandering below 80%. From 100% on the layer alarms.",
        "percentunit", (_tap("tap:sidecar_drift_evidence:level_ratio", "max"),), 12, low=0, steps=((1, "red"),),
    ),
    Panel(
        "Drift evidence, layer by time",
        "The same evidence with one row of cells for each layer, the strongest site of it. Good: pale all "
        "over. One dark row is a fault in that layer; everything dark from one row upwards began there.",
        "percentunit", (_layers("tap:sidecar_drift_evidence:level_ratio", "max"),), 12, "heatmap", low=0, high=1,
    ),
    Panel(
        "Population stability index",
        "How far the distribution of values lies from the reference, the value expected without drift "
        "subtracted; empty until the reference is ready. Good: around 0. From 0.1 on it matters.",
        "short", (_tap("sidecar_drift_psi", "max"),), 8, steps=((0.1, "red"),),
    ),
    Panel(
        "Jensen-Shannon divergence",
        "The same distance on a scale from 0 (equal) to 1 (disjoint), the value expected without drift "
        "subtracted; empty until the reference is ready. Good: around 0.",
        "short", (_tap("sidecar_drift_jensen_shannon", "max"),), 8,
    ),
    Panel(
        "Mean shift",
        "Shift of the request means in standard deviations of the reference's request means; empty until the "
        "reference is ready. Good: within half a standard deviation of 0.",
        "short", (_tap("sidecar_drift_mean_shift_sigmas", "avg"),), 8,
    ),
))  # fmt: skip

ACTIVATIONS = Row("Activations", (
    Panel(
        "Mean activation, layer by time",
        "Mean activation over drift.window_seconds, one row of cells for each layer, sites averaged; choose "
        "one site above to see it alone. Good: bands that keep their colour.",
        "short", (_layers("sidecar_activation_mean", "avg"),), 12, "heatmap", scheme="RdYlBu",
    ),
    Panel(
        "Largest absolute activation",
        "Largest |x| over drift.window_seconds. Good: steady. A Gaussian layer of 4096 values has about 3.7 "
        "times its root mean square; massive activations exceed 100 and 1000 times the median (Sun 2024).",
        "short", (_tap("sidecar_activation_absmax", "max"),), 12, low=0,
    ),
    Panel(
        "Zero ratio",
        "Share of values that are exactly zero. Good: steady. A Gaussian has none; a ReLU of one has half.",
        "percentunit", (_tap("tap:sidecar_activation_zeros:ratio_rate1m", "avg"),), 8, low=0,
    ),
    Panel(
        "Near-zero ratio",
        "Share of values with |x| at most capture.near_zero, zeros included. Good: steady. A standard Gaussian "
        "has 0.08% at the default of 2^-10.",
        "percentunit", (_tap("tap:sidecar_activation_near_zeros:ratio_rate1m", "avg"),), 8, low=0,
    ),
    Panel(
        "Outlier ratio",
        "Share of values with |x| of 6 and more (LLM.int8()). Good: steady, and small. A standard Gaussian has "
        "two in a thousand million.",
        "percentunit", (_tap("tap:sidecar_activation_outliers:ratio_rate1m", "avg"),), 8, low=0,
    ),
    Panel(
        "Kurtosis",
        "Fourth standardised moment over drift.window_seconds. Good: steady. A Gaussian has 3; a few dominating "
        "channels push it beyond 100.",
        "short", (_tap("sidecar_activation_kurtosis", "max"),), 8, low=0,
    ),
    Panel(
        "Dead channels",
        "Share of the layer's channels that never fired over drift.window_seconds. Good: steady. With few "
        "requests in the window more channels look dead than are.",
        "percentunit", (_tap("tap:sidecar_activation_dead_channels:ratio", "max"),), 8, low=0,
    ),
    Panel(
        "float16 headroom",
        "Doublings left before the largest activation overflows float16 (65504). Good: above 3. Below 1, "
        "SidecarHeadroomLow fires; a model that runs in bfloat16 or float32 does not mind.",
        "short", (_tap("sidecar_activation_float16_headroom_octaves", "min"),), 8,
    ),
    Panel(
        "Non-finite values",
        "NaN, +Inf and -Inf among the observed activations, each second. Good: 0, always.",
        "cps", (_tap("tap:sidecar_activation_nonfinite:rate1m", "sum"),), 12, low=0,
    ),
    Panel(
        "Growth of the largest activation",
        "Largest |x| over drift.window_seconds divided by the reference's; empty until the reference is ready. "
        "Good: about 1. Above 4, SidecarActivationExplosion fires.",
        "short", (_tap("sidecar_activation_absmax_growth_ratio", "max"),), 12, low=0, steps=((4, "red"),),
    ),
))  # fmt: skip

HEALTH = Row("Sidecar health", (
    Panel(
        "Telemetry share over time",
        "Time telemetry takes, divided by the time spent running the model; empty without requests. Good: "
        "below 1%.",
        "percentunit", (_model("model:sidecar_telemetry_seconds:share_rate1m", "max"),), 8, low=0,
        steps=((0.05, "red"),),
    ),
    Panel(
        "Observed requests",
        "Requests whose activations were observed, and requests chosen for it and dropped, each second. Good: "
        "no drops; a drop costs knowledge, never a reply.",
        "reqps",
        (
            _model("model:sidecar_sampled_requests:rate1m", "sum", f"{_BY_MODEL} observed"),
            _model("model:sidecar_dropped_samples:rate1m", "sum", f"{_BY_MODEL} dropped"),
        ),
        8, low=0,
    ),
    Panel(
        "Telemetry errors",
        "Errors inside telemetry each second; none of them reached a request. Good: 0.",
        "cps", (_model("model:sidecar_telemetry_failures:rate1m", "sum"),), 8, low=0,
    ),
    Panel(
        "Time since the last drain",
        "Age of the newest sketches that left the device. Good: below a few times capture.drain_seconds.",
        "s",
        (Query(
            f"time() - min by (model, version) (sidecar_last_drain_timestamp_seconds{{{_MODEL}}})", _BY_MODEL,
        ),),
        8, low=0,
    ),
    Panel(
        "Reference requests",
        "Requests in the reference so far. Good: rises to drift.reference_requests, then stays.",
        "short", (_model("sidecar_reference_requests", "min"),), 8, low=0,
    ),
    Panel(
        "Time series",
        "Series of activations that each process exports, and those it leaves out because export.max_series is "
        "reached. Good: none left out.",
        "short",
        (
            Query(f"sidecar_series{{{_PROCESS}}}", "{{instance}} exported"),
            Query(f"sidecar_series_dropped{{{_PROCESS}}}", "{{instance}} left out"),
        ),
        8, low=0,
    ),
))  # fmt: skip

OVERVIEW = dashboard(
    "activation-sidecar-overview",
    "Activation sidecar / Overview",
    "Traffic, activations and drift of the models behind an activation sidecar.",
    (
        Variable("job", "sidecar_model_ready"),
        Variable("instance", "sidecar_model_ready"),
        Variable("model", "sidecar_model_ready"),
        Variable("version", "sidecar_model_ready"),
        Variable("site", "sidecar_activation_channels"),
    ),
    (TRAFFIC, STATE, DRIFT, ACTIVATIONS, HEALTH),
)
