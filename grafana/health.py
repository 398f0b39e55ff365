"""The dashboard of the sidecar itself: what telemetry costs and misses, and how the server and the process are."""

from __future__ import annotations

from panels import Panel, Query, Row, dashboard
from queries import ANNOTATIONS, BY_MODEL, MODEL, OF_TAPS, PROCESS, model, process, rate, tap

TELEMETRY = Row("Telemetry", (
    Panel(
        "Telemetry share",
        "Time telemetry takes, divided by the time spent running the model; empty without requests. Good: "
        "below capture.budget (2% by default). SidecarTelemetryOverBudget fires at 5%.",
        "percentunit", (model("model:sidecar_telemetry_seconds:share_rate1m", "max"),), 8, low=0,
        steps=((0.05, "red"),),
    ),
    Panel(
        "Governor: share of requests observed",
        "Share of requests that the governor chooses now. Good: capture.sample_rate. Below it the budget pays for no "
        "more.",
        "percentunit", (model("sidecar_sample_rate_ratio", "min"),), 8, low=0,
    ),
    Panel(
        "Observed requests",
        "Requests that were observed, refused because the budget was spent, and dropped, each second. Good: "
        "no drops; a drop costs knowledge, never a reply.",
        "reqps",
        (
            model("model:sidecar_sampled_requests:rate1m", "sum", f"{BY_MODEL} observed"),
            model("model:sidecar_refused_samples:rate1m", "sum", f"{BY_MODEL} refused"),
            model("model:sidecar_dropped_samples:rate1m", "sum", f"{BY_MODEL} dropped"),
        ),
        8, low=0,
    ),
    Panel(
        "Drops by reason",
        "Requests chosen and not observed, each second: slots (more than capture.slots between two drains), stuck (an "
        "observed batch never came back), busy. Good: 0. SidecarTelemetryDropping fires at 1% of the chosen.",
        "reqps", (rate("sidecar_dropped_samples_total", f"{BY_MODEL} {{{{reason}}}}", also="reason"),), 8, low=0,
    ),
    Panel(
        "Telemetry errors",
        "Errors inside telemetry each second, by part; none of them reached a request. Good: 0.",
        "cps", (rate("sidecar_telemetry_failures_total", f"{BY_MODEL} {{{{part}}}}", also="part"),), 8, low=0,
    ),
    Panel(
        "Time since the last drain",
        "Age of the newest sketches that left the device. Good: below a few times capture.drain_seconds under "
        "traffic; without sampled requests it grows, and that is no fault.",
        "s",
        (Query(f"time() - min by (model, version) (sidecar_last_drain_timestamp_seconds{{{MODEL}}})", BY_MODEL),),
        8, low=0,
    ),
    Panel(
        "Silent taps",
        "1 for a tap that sees nothing of the requests that are sampled. Good: 0.",
        "short", (tap("sidecar_tap_silent", "max"),), 8, low=0, high=1,
    ),
    Panel(
        "Time series",
        "Series of activations that each process exports, and those it leaves out because export.max_series is "
        "reached. Good: none left out.",
        "short",
        (
            process("sidecar_series", "{{instance}} exported"),
            process("sidecar_series_dropped", "{{instance}} left out"),
        ),
        8, low=0,
    ),
    Panel(
        "Instrumented",
        "1 while the variant that is watched may run, beside 1 where telemetry is asked for. Good: both 1, or both 0 "
        "on purpose.",
        "short",
        (
            model("sidecar_instrumented", "min", f"{BY_MODEL} instrumented"),
            model("sidecar_telemetry_wanted", "min", f"{BY_MODEL} wanted"),
        ),
        8, low=0, high=1,
    ),
))  # fmt: skip

SERVING = Row("Serving", (
    Panel(
        "Latency",
        "Median and 99th percentile of the time to reply, in the slowest instance. Good: flat, and p99 within a few "
        "times the median. SidecarLatencyHigh fires at 1 s.",
        "s",
        (
            model("model:sidecar_request_duration_seconds:p50_rate1m", "max", f"{BY_MODEL} p50"),
            model("model:sidecar_request_duration_seconds:p99_rate1m", "max", f"{BY_MODEL} p99"),
        ),
        8, low=0,
    ),
    Panel(
        "Time in the queue",
        "99th percentile of the wait for a batch to start; empty without requests. Good: about "
        "batching.max_delay_ms plus the time of the batch that runs.",
        "s", (model("model:sidecar_queue_duration_seconds:p99_rate1m", "max"),), 8, low=0,
    ),
    Panel(
        "Queue length",
        "Requests that wait for a batch now, and all that are being answered. Good: far below "
        "batching.queue_requests; at that limit new requests are refused.",
        "short",
        (
            model("sidecar_queue_requests", "sum", f"{BY_MODEL} waiting"),
            model("sidecar_requests_in_flight", "sum", f"{BY_MODEL} in flight"),
        ),
        8, low=0,
    ),
    Panel(
        "Rows per batch",
        "Mean number of rows that ran together; empty without requests. Good: near 1 when idle, rising with "
        "the load towards batching.max_rows.",
        "short", (model("model:sidecar_batch_rows:mean_rate1m", "avg"),), 8, low=0,
    ),
    Panel(
        "Model at work",
        "Share of time in which the model runs, telemetry excluded, over all instances. Good: below 80% of one for "
        "each instance; at 100% the queue grows.",
        "percentunit", (rate("sidecar_inference_seconds_total"),), 8, low=0,
    ),
    Panel(
        "State of the versions",
        "1 for the state that the version is in. Good: READY.",
        "short", (model("sidecar_model_state", "max", f"{BY_MODEL} {{{{state}}}}", also="state"),), 8, low=0, high=1,
    ),
))  # fmt: skip

PROCESS_ROW = Row("Process", (
    Panel(
        "CPU",
        "Processors that the process keeps busy. Good: below those it has been given.",
        "short",
        (Query(f"rate(process_cpu_seconds_total{{{PROCESS}}}[$__rate_interval])", "{{instance}}"),), 8, low=0,
    ),
    Panel(
        "Memory",
        "Resident memory of the process, and the weights of its models. Good: flat after the first minutes.",
        "bytes",
        (
            process("process_resident_memory_bytes", "{{instance}} resident"),
            model("sidecar_model_weights_bytes", "max", f"{BY_MODEL} weights"),
        ),
        8, low=0,
    ),
    Panel(
        "GPU memory",
        "Memory of each GPU that torch allocated to tensors, keeps reserved, and all there is; 0 without a GPU. Good: "
        "reserved flat and below the total. ONNX Runtime's own is not in it; utilisation is DCGM's to say.",
        "bytes", (Query(
            f"sidecar_gpu_memory_bytes{{{PROCESS}}} or sum by (instance) (sidecar_series{{{PROCESS}}}) * 0",
            "{{instance}} {{device}} {{kind}}",
        ),),
        8, low=0,
    ),
    Panel(
        "Open files and uptime",
        "Open file descriptors, connections among them, and hours since the start. Good: files flat, hours rising.",
        "short",
        (
            process("process_open_fds", "{{instance}} files"),
            Query(f"(time() - process_start_time_seconds{{{PROCESS}}}) / 3600", "{{instance}} hours"),
        ),
        8, low=0,
    ),
    Panel(
        "Files that cannot be used",
        "1 while a changed certificate or token file cannot be used and the old content stays. Good: 0.",
        "short", (Query(
            # A server without such files has no such series.
            f"sum by (instance, setting) (sidecar_files_stale{{{PROCESS}}})"
            f" or sum by (instance) (sidecar_series{{{PROCESS}}}) * 0",
            "{{instance}} {{setting}}",
        ),),
        8, low=0, high=1,
    ),
    Panel(
        "Time to load",
        "What loading, warming up and checking a version took when it was loaded last. Good: steady.",
        "s", (model("sidecar_model_load_seconds", "max"),), 8, low=0,
    ),
))  # fmt: skip

HEALTH = dashboard(
    "activation-sidecar-health",
    "Activation sidecar / Sidecar health",
    "What telemetry costs and misses, the queue and the process of an activation sidecar.",
    OF_TAPS,
    ANNOTATIONS,
    (TELEMETRY, SERVING, PROCESS_ROW),
)
