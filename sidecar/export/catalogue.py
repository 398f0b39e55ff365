"""The one list of metrics: name, type, help, unit and labels.

Exporter, dashboards, rules and docs/metrics.md are written from it or checked against it.
Conventions: prometheus.io/docs/practices/naming.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram", "unknown"]

MODEL = ("model", "version")
TAP = ("model", "version", "layer", "site")

SECONDS_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
STAGE_BUCKETS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, *SECONDS_BUCKETS)
MAGNITUDES = (2**-6, 2**-4, 0.25, 0.5, 1.0, 2.0, 4.0, 6.0, 16.0, 64.0)
VALUE_BUCKETS = (*(-bound for bound in reversed(MAGNITUDES)), 0.0, *MAGNITUDES)
"""Edges of the sketch's own bins, so that counts at them are exact; among them the outliers' 6."""
COARSE_BUCKETS = tuple(bound for bound in VALUE_BUCKETS if abs(bound) in (0.0, 2**-4, 0.5, 2.0, 6.0, 64.0))
KINDS = ("nan", "+inf", "-inf")
ROWS_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric family, equal only to itself. `name` is what a query says; counters end in `_total`.

    unit: "seconds", "bytes", "ratio", "sigmas", "octaves", "nats", "timestamp", or "" for a plain count or value.
    buckets: bounds of a histogram's classic buckets. native: it is a native histogram too, in protobuf.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    unit: str = ""
    buckets: tuple[float, ...] = ()
    native: bool = False


REQUESTS = Metric(
    "sidecar_requests_total", "counter", "Inference requests answered, by gRPC status.", (*MODEL, "code")
)
CALLS = Metric(
    "sidecar_calls_total", "counter",
    "gRPC calls ended, by method and status; all methods without a row of their own are `other`.",
    ("method", "code"),
)  # fmt: skip
REQUEST_SECONDS = Metric(
    "sidecar_request_duration_seconds", "histogram",
    "Time from the arrival of an inference request to its reply.", MODEL, "seconds", SECONDS_BUCKETS, native=True,
)  # fmt: skip
QUEUE_SECONDS = Metric(
    "sidecar_queue_duration_seconds", "histogram",
    "Time an inference request waited for its batch to start.", MODEL, "seconds", SECONDS_BUCKETS, native=True,
)  # fmt: skip
ASSEMBLY_SECONDS = Metric(
    "sidecar_batch_assembly_duration_seconds", "histogram",
    "Time to put the inputs of a batch together.", MODEL, "seconds", STAGE_BUCKETS, native=True,
)  # fmt: skip
COMPUTE_SECONDS = Metric(
    "sidecar_batch_compute_duration_seconds", "histogram",
    "Time a batch took in the model, observation included.", MODEL, "seconds", STAGE_BUCKETS, native=True,
)  # fmt: skip
RESPONSE_SECONDS = Metric(
    "sidecar_batch_response_duration_seconds", "histogram",
    "Time to take the outputs of a batch apart.", MODEL, "seconds", STAGE_BUCKETS, native=True,
)  # fmt: skip
BATCH_ROWS = Metric(
    "sidecar_batch_rows", "histogram", "Rows per executed batch.", MODEL, buckets=ROWS_BUCKETS
)
IN_FLIGHT = Metric("sidecar_requests_in_flight", "gauge", "Inference requests being answered now.", MODEL)
QUEUE_LENGTH = Metric("sidecar_queue_requests", "gauge", "Inference requests waiting for a batch.", MODEL)
INPUT_NONFINITE = Metric(
    "sidecar_input_nonfinite_total", "counter", "NaN and infinite values in the inputs of requests.", MODEL
)
REJECTED = Metric(
    "sidecar_rejected_requests_total", "counter",
    "Inference requests that were not answered, by reason.", (*MODEL, "reason"),
)  # fmt: skip
INPUT_BYTES = Metric(
    "sidecar_input_bytes_total", "counter", "Bytes of the tensors that went into the model.", MODEL
)
OUTPUT_BYTES = Metric(
    "sidecar_output_bytes_total", "counter", "Bytes of the tensors that the model gave.", MODEL
)
MODEL_READY = Metric("sidecar_model_ready", "gauge", "1 while the model takes requests, else 0.", MODEL)
MODEL_STATE = Metric(
    "sidecar_model_state", "gauge",
    "1 for the state that the version is in, 0 for the others (READY, LOADING, UNLOADING, UNAVAILABLE).",
    (*MODEL, "state"),
)  # fmt: skip
LOAD_SECONDS = Metric(
    "sidecar_model_load_seconds", "gauge",
    "What loading, warming up and checking the version took when it was loaded last.", MODEL, "seconds",
)  # fmt: skip
WEIGHT_BYTES = Metric(
    "sidecar_model_weights_bytes", "gauge", "Memory of the version's weights, which both variants share.",
    MODEL, "bytes",
)  # fmt: skip

INSTRUMENTED = Metric(
    "sidecar_instrumented", "gauge",
    "1 while the instrumented variant passed its self-check and may run, else 0.", MODEL,
)  # fmt: skip
TELEMETRY_WANTED = Metric(
    "sidecar_telemetry_wanted", "gauge", "1 where capture.enabled asks for telemetry, else 0.", MODEL
)
SAMPLE_RATE = Metric(
    "sidecar_sample_rate_ratio", "gauge",
    "Share of requests chosen for observation now: capture.sample_rate, or what capture.budget pays for.",
    MODEL, "ratio",
)  # fmt: skip
REFUSED = Metric(
    "sidecar_refused_samples_total", "counter",
    "Requests chosen for observation and not observed, because capture.budget was spent.", MODEL,
)  # fmt: skip
SAMPLED = Metric(
    "sidecar_sampled_requests_total", "counter", "Requests whose activations were observed.", MODEL
)
DROPPED = Metric(
    "sidecar_dropped_samples_total", "counter",
    "Requests chosen for observation and not observed, by reason (slots, stuck, busy, padded).", (*MODEL, "reason"),
)  # fmt: skip
TELEMETRY_FAILURES = Metric(
    "sidecar_telemetry_failures_total", "counter",
    "Errors inside telemetry, by part; none of them reached a request.", (*MODEL, "part"),
)  # fmt: skip
TELEMETRY_SECONDS = Metric(
    "sidecar_telemetry_seconds_total", "counter",
    "Time telemetry took: choosing requests and observe ops on the request path, and CPU time of the drain.",
    MODEL, "seconds",
)  # fmt: skip
TELEMETRY_BUDGET = Metric(
    "sidecar_telemetry_budget_ratio", "gauge",
    "capture.budget: the share of inference time that telemetry may take; 1 sets no limit.", MODEL, "ratio",
)  # fmt: skip
INFERENCE_SECONDS = Metric(
    "sidecar_inference_seconds_total", "counter", "Time spent running the model, telemetry excluded.",
    MODEL, "seconds",
)  # fmt: skip
LAST_DRAIN = Metric(
    "sidecar_last_drain_timestamp_seconds", "gauge", "When sketches last left the device.", MODEL, "timestamp"
)
SERIES = Metric("sidecar_series", "gauge", "Time series of activations exported now.", ())
SERIES_DROPPED = Metric(
    "sidecar_series_dropped", "gauge", "Time series left out because export.max_series was reached.", ()
)

STORE_WRITABLE = Metric(
    "sidecar_store_writable", "gauge", "1 while panes are written to store.path, 0 while they cannot be.", ()
)
STORE_BYTES = Metric("sidecar_store_bytes", "gauge", "What the panes in the store take on disk.", (), "bytes")
STORE_PANES = Metric("sidecar_store_panes_total", "counter", "Panes written to the store.", ())
STORE_DROPPED = Metric(
    "sidecar_store_dropped_panes_total", "counter",
    "Panes not written, because the disk was full, writing failed or fell behind.", (),
)  # fmt: skip
STORE_SET_ASIDE = Metric(
    "sidecar_store_set_aside_total", "counter",
    "Stores that were renamed and begun anew, because the file was damaged or the clock jumped.", (),
)  # fmt: skip
STORE_SECONDS = Metric(
    "sidecar_store_seconds_total", "counter", "CPU time of writing to the store.", (), "seconds"
)
OTEL_SPANS = Metric(
    "sidecar_otel_spans_total", "counter",
    "Spans that were sent over OTLP, that could not be sent, and requests that were dropped because too many waited.",
    ("result",),
)  # fmt: skip
OTEL_PUSHES = Metric(
    "sidecar_otel_metric_pushes_total", "counter", "Pushes of all metrics over OTLP, by whether they arrived.",
    ("result",),
)  # fmt: skip
OF_OTEL = (OTEL_SPANS, OTEL_PUSHES)
GPU_MEMORY = Metric(
    "sidecar_gpu_memory_bytes", "gauge",
    "Memory of a GPU that torch uses in this process: `allocated` to tensors, `reserved` for them and those to come, "
    "and `total` of the device. No series without such a GPU.",
    ("device", "kind"), "bytes",
)  # fmt: skip
FILES_STALE = Metric(
    "sidecar_files_stale", "gauge",
    "1 while a changed certificate or token file cannot be used and what was read before stays in use, else 0.",
    ("setting",),
)  # fmt: skip

SILENT = Metric(
    "sidecar_tap_silent",
    "gauge",
    "1 while the tap sees nothing of the requests that are sampled, else 0.",
    TAP,
)

VALUE = Metric(
    "sidecar_activation_value", "histogram", "Finite activation values, of both signs.", TAP,
    buckets=VALUE_BUCKETS, native=True,
)  # fmt: skip
VALUES = Metric("sidecar_activation_values_total", "counter", "Activation values observed.", TAP)
ZEROS = Metric("sidecar_activation_zeros_total", "counter", "Values equal to zero.", TAP)
NEAR_ZEROS = Metric(
    "sidecar_activation_near_zeros_total", "counter",
    "Finite values with |x| at most capture.near_zero, zeros included.", TAP,
)  # fmt: skip
NONFINITE = Metric(
    "sidecar_activation_nonfinite_total", "counter", "NaN, +Inf and -Inf values, by kind.", (*TAP, "kind")
)
SUBNORMALS = Metric(
    "sidecar_activation_subnormals_total", "counter", "Subnormal values, in the tensor's own format.", TAP
)
OUTLIERS = Metric(
    "sidecar_activation_outliers_total", "counter",
    "Finite values with |x| >= 6, the threshold of LLM.int8() (Dettmers 2022).", TAP,
)  # fmt: skip
POSITIONS = Metric(
    "sidecar_activation_positions_total", "counter", "Vectors observed (one for each token or pixel).", TAP
)
MEAN = Metric("sidecar_activation_mean", "gauge", "Mean value over drift.window_seconds.", TAP)
STDDEV = Metric("sidecar_activation_stddev", "gauge", "Standard deviation over drift.window_seconds.", TAP)
ABSMAX = Metric("sidecar_activation_absmax", "gauge", "Largest |x| over drift.window_seconds.", TAP)
KURTOSIS = Metric(
    "sidecar_activation_kurtosis", "gauge",
    "Fourth standardised moment over drift.window_seconds; 3 for a Gaussian.", TAP,
)  # fmt: skip
DEAD = Metric(
    "sidecar_activation_dead_channels", "gauge",
    "Channels that never fired over drift.window_seconds; NaN without a request.", TAP,
)  # fmt: skip
CHANNELS = Metric("sidecar_activation_channels", "gauge", "Channels of the tap.", TAP)
HEADROOM = Metric(
    "sidecar_activation_headroom_octaves", "gauge",
    "Doublings left before absmax overflows the number format that the activations have; NaN where that is not known.",
    TAP, "octaves",
)  # fmt: skip
FLOAT16_HEADROOM = Metric(
    "sidecar_activation_float16_headroom_octaves", "gauge",
    "log2(65504 / absmax): doublings left before float16 overflows.", TAP, "octaves",
)  # fmt: skip
ABSMAX_GROWTH = Metric(
    "sidecar_activation_absmax_growth_ratio", "gauge",
    "Absmax over drift.window_seconds, divided by the reference's; 1 while it is lower only for want of requests.",
    TAP, "ratio",
)  # fmt: skip

EVIDENCE = Metric(
    "sidecar_drift_evidence", "gauge",
    "Natural logarithm of the layer's e-detector; it alarms at sidecar_drift_layer_alarm_level.", TAP, "nats",
)  # fmt: skip
DRIFTING = Metric(
    "sidecar_drift_active", "gauge", "1 from the layer's alarm until its evidence is gone, else 0.", TAP
)
ALARMS = Metric("sidecar_drift_alarms_total", "counter", "Alarms of the layer's e-detector.", TAP)
PSI = Metric(
    "sidecar_drift_psi", "gauge",
    "Population stability index of the values against the reference, its no-drift mean subtracted.", TAP,
)  # fmt: skip
JENSEN_SHANNON = Metric(
    "sidecar_drift_jensen_shannon", "gauge",
    "Jensen-Shannon divergence (0..1, base 2) against the reference, its no-drift mean subtracted.", TAP,
)  # fmt: skip
MEAN_SHIFT = Metric(
    "sidecar_drift_mean_shift_sigmas", "gauge",
    "Shift of the request statistic that moved most (mean, rms, absmax, near-zero share or kurtosis), in "
    "standard deviations of the reference's requests.", TAP, "sigmas",
)  # fmt: skip
KOLMOGOROV_SMIRNOV = Metric(
    "sidecar_drift_kolmogorov_smirnov", "gauge",
    "Kolmogorov-Smirnov distance (0..1) of the values from the reference, its no-drift mean subtracted.", TAP,
)  # fmt: skip
WASSERSTEIN = Metric(
    "sidecar_drift_wasserstein_sigmas", "gauge",
    "Wasserstein-1 distance of the values from the reference, in standard deviations of its values, its "
    "no-drift mean subtracted.", TAP, "sigmas",
)  # fmt: skip
FRECHET = Metric(
    "sidecar_drift_frechet", "gauge",
    "Squared Frechet distance of 32 projections of channel means from the reference, each "
    "in its standard deviations, its no-drift mean subtracted.", TAP,
)  # fmt: skip
TIMES_LEVEL = Metric(
    "sidecar_drift_times_level_ratio", "gauge",
    "The largest of all effect sizes over the 99.9% level that it has without drift.", TAP, "ratio",
)  # fmt: skip
WORST_CHANNEL = Metric(
    "sidecar_drift_worst_channel", "gauge",
    "Index of the channel whose mean moved most; rank 1 is the worst.", (*TAP, "rank"),
)  # fmt: skip
WORST_CHANNEL_SHIFT = Metric(
    "sidecar_drift_worst_channel_shift_sigmas", "gauge",
    "Signed shift of that channel's mean, in standard deviations of the channel in the reference.",
    (*TAP, "rank"), "sigmas",
)  # fmt: skip
CAUSE = Metric(
    "sidecar_drift_cause", "gauge",
    "1 at the tap where the drift that is active begins, the first in depth order whose evidence passed, else 0.",
    TAP,
)  # fmt: skip
CAUSE_KIND = Metric(
    "sidecar_drift_cause_kind", "gauge",
    "1 for what explains active drift, else 0: numeric (NaN, infinities), mix (other shares of classes or routes), "
    "or covariate (neither).", (*MODEL, "kind"),
)  # fmt: skip
VERSION_PSI = Metric(
    "sidecar_version_psi", "gauge",
    "Population stability index of the values against those of the model's first version in the same window, its "
    "no-drift mean subtracted. Of further versions only.", TAP,
)  # fmt: skip
VERSION_MEAN_SHIFT = Metric(
    "sidecar_version_mean_shift_sigmas", "gauge",
    "Shift of the request statistic that differs most from the first version's, in standard deviations of "
    "the first version's requests. Of further versions only.", TAP, "sigmas",
)  # fmt: skip
VERSION_TIMES_LEVEL = Metric(
    "sidecar_version_times_level_ratio", "gauge",
    "The largest of all effect sizes against the first version over its 99.9% no-drift level. Of further versions "
    "only.", TAP, "ratio",
)  # fmt: skip
OF_FURTHER_VERSIONS = (VERSION_PSI, VERSION_MEAN_SHIFT, VERSION_TIMES_LEVEL)
MODEL_EVIDENCE = Metric(
    "sidecar_drift_model_evidence", "gauge",
    "Natural logarithm of the average of all e-detectors; it alarms at sidecar_drift_alarm_level.", MODEL, "nats",
)  # fmt: skip
DIRECTION_EVIDENCE = Metric(
    "sidecar_drift_direction_evidence", "gauge",
    "Evidence of small shifts in all layers together; with ln 4 more than sidecar_drift_alarm_level it alarms alone.",
    MODEL, "nats",
)  # fmt: skip
OUTPUT_EVIDENCE = Metric(
    "sidecar_drift_output_evidence", "gauge",
    "Evidence in a classifier's logits, their energy and margin; alarms as a layer does.", MODEL, "nats",
)  # fmt: skip
CLASS_EVIDENCE = Metric(
    "sidecar_drift_class_evidence", "gauge",
    "Evidence that shares of predicted classes changed; with ln 4 more than sidecar_drift_alarm_level it alarms alone.",
    MODEL, "nats",
)  # fmt: skip
CLASS_SHARE = Metric(
    "sidecar_drift_class_ratio", "gauge",
    "Share of requests of the predicted class, in the reference and over drift.window_seconds: of the reference's ten "
    "most frequent classes, and of all others together. Of a classifier, from a complete reference on.",
    (*MODEL, "class", "side"), "ratio",
)  # fmt: skip
ALARM_LEVEL = Metric(
    "sidecar_drift_alarm_level", "gauge",
    "Model alarm level: ln(drift.requests_between_false_alarms).", MODEL, "nats",
)  # fmt: skip
LAYER_ALARM_LEVEL = Metric(
    "sidecar_drift_layer_alarm_level", "gauge",
    "Layer alarm level: sidecar_drift_alarm_level + ln(2 x taps), or of a classifier ln(4 x (taps + 1)).",
    MODEL, "nats",
)  # fmt: skip
MODEL_ALARMS = Metric("sidecar_drift_model_alarms_total", "counter", "Alarms of the model's evidence.", MODEL)
REFERENCE_REQUESTS = Metric("sidecar_reference_requests", "gauge", "Requests in the reference so far.", MODEL)
REFERENCE_READY = Metric(
    "sidecar_reference_ready", "gauge", "1 once the reference is complete and drift is judged, else 0.", MODEL
)
REFERENCE_CREATED = Metric(
    "sidecar_reference_created_timestamp_seconds", "gauge",
    "When the newest request of the complete reference was seen; it changes when the baseline does.",
    MODEL, "timestamp",
)  # fmt: skip
REFERENCE_WIDENING = Metric(
    "sidecar_reference_widening_ratio", "gauge",
    "What a bet on a shift of one sigma is divided by, because the reference is finite; 1.04 at 5,000 requests.",
    MODEL, "ratio",
)  # fmt: skip

OUTLIER_FEATURES = Metric(
    "sidecar_instability_outlier_features", "gauge",
    "Channels with |x| >= 6 at 6% of positions or more in a quarter of the layers or more (Dettmers 2022).", MODEL,
)  # fmt: skip
MASSIVE_CHANNELS = Metric(
    "sidecar_instability_massive_channels", "gauge",
    "Channels, over all taps, with |x| > 100 and at least 1000 times the median of |x| (Sun 2024).", MODEL,
)  # fmt: skip
DEPTH_GROWTH = Metric(
    "sidecar_instability_depth_growth_octaves", "gauge",
    "Doublings of the rms from one layer to the next: slope of log2(rms) over the depth.", MODEL, "octaves",
)  # fmt: skip
RMS_GROWTH = Metric(
    "sidecar_instability_rms_growth_octaves", "gauge",
    "log2 of the rms over that of the reference, largest of all taps.", MODEL, "octaves",
)  # fmt: skip
RMS_CHANGE = Metric(
    "sidecar_instability_rms_change_octaves", "gauge",
    "log2 of the rms over that of the window before, largest of all taps.", MODEL, "octaves",
)  # fmt: skip
LEAST_HEADROOM = Metric(
    "sidecar_instability_headroom_octaves", "gauge",
    "Doublings left before the format overflows, least of all taps.", (*MODEL, "format"), "octaves",
)  # fmt: skip
OVERFLOW = Metric(
    "sidecar_instability_overflow_ratio", "gauge",
    "Share of values beyond the largest of the 8-bit format, unscaled, largest of all taps.",
    (*MODEL, "format"), "ratio",
)  # fmt: skip
UNDERFLOW = Metric(
    "sidecar_instability_underflow_ratio", "gauge",
    "Share of values that the 8-bit format would round to 0, unscaled, largest of all taps.",
    (*MODEL, "format"), "ratio",
)  # fmt: skip
SUBNORMAL = Metric(
    "sidecar_instability_subnormal_ratio", "gauge",
    "Share of values that would be subnormal in the 8-bit format, unscaled, largest of all taps.",
    (*MODEL, "format"), "ratio",
)  # fmt: skip
SCALED_UNDERFLOW = Metric(
    "sidecar_instability_scaled_underflow_ratio", "gauge",
    "The same as underflow, with each tap at the largest power of two at which nothing overflows.",
    (*MODEL, "format"), "ratio",
)  # fmt: skip
CHANNEL_KURTOSIS = Metric(
    "sidecar_instability_channel_kurtosis", "gauge",
    "mean(s^4) / mean(s^2)^2 over the rms s of a tap's channels, 1 if all are alike (He 2024), largest of all taps.",
    MODEL,
)  # fmt: skip
CHURN = Metric(
    "sidecar_instability_channel_churn_ratio", "gauge",
    "Share of a tap's ten strongest channels that were not so in the window before, largest of all taps.",
    MODEL, "ratio",
)  # fmt: skip
ALWAYS_ON = Metric(
    "sidecar_instability_always_on_ratio", "gauge",
    "Share of the channels of all taps that fired at 99.9% of positions or more.", MODEL, "ratio",
)  # fmt: skip
SATURATED = Metric(
    "sidecar_instability_saturated_ratio", "gauge",
    "Share of channels, over all taps, certainly within 1% of their own largest |x| at half of positions or more.",
    MODEL, "ratio",
)  # fmt: skip
RATE_BOUND = Metric(
    "sidecar_instability_rate_bound_ratio", "gauge",
    "95% bound on how often a dead channel fires, or one that always fired rests, largest of all taps.",
    MODEL, "ratio",
)  # fmt: skip
DISTINCT = Metric(
    "sidecar_instability_distinct_ratio", "gauge",
    "Share of distinct firing patterns (signs of 32 projections of channel means) among the "
    "newest 512 requests at a tap, least of all taps.", MODEL, "ratio",
)  # fmt: skip
PARTICIPATION = Metric(
    "sidecar_instability_participation_ratio", "gauge",
    "Directions, of 32 projections, in which requests differ, (tr C)^2 / tr(C^2), least of taps.",
    MODEL, "ratio",
)  # fmt: skip
EFFECTIVE_RANK = Metric(
    "sidecar_instability_effective_rank", "gauge",
    "Directions, of 32 projections, in which requests differ, by eigenvalues, least of all taps.",
    MODEL,
)  # fmt: skip
SELF_SIMILARITY = Metric(
    "sidecar_instability_self_similarity", "gauge",
    "Mean cosine (-1..1) between a request and the next, about the reference's centre, largest of all taps.",
    MODEL,
)  # fmt: skip
VARIANCE_SHARE = Metric(
    "sidecar_instability_between_request_variance_ratio", "gauge",
    "Variance between requests' means as a share of that of all values, largest of all taps.", MODEL, "ratio",
)  # fmt: skip
AUTOCORRELATION = Metric(
    "sidecar_instability_autocorrelation", "gauge",
    "Lag-1 autocorrelation of requests' means at the tap where it is least: below 0 they alternate.", MODEL,
)  # fmt: skip
SIGN_CHANGES = Metric(
    "sidecar_instability_sign_changes_ratio", "gauge",
    "Share of steps between requests that cross the median of their means, largest of all taps; 0.5 by chance.",
    MODEL, "ratio",
)  # fmt: skip

CATALOGUE: tuple[Metric, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)
"""Every metric above, in that order."""
