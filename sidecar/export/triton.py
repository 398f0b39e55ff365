"""The metrics of serving under the names of Triton Inference Server, so that dashboards made for it go on working.

Names, labels and units are those that Triton 2.51 exports, its microseconds and missing `_total` included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from sidecar.export.catalogue import MODEL, Metric
from sidecar.export.serving import Counts, ServingMetrics

Value = Callable[[Counts], float]

REASONS: Mapping[str, tuple[str, ...]] = {
    "REJECTED": ("queue_full", "memory", "expired"),
    "CANCELED": ("cancelled",),
    "BACKEND": ("model",),
    "OTHER": ("invalid", "not_ready", "other"),
}
"""Triton's reason of a failure -> ours."""


def _microseconds(seconds: Value) -> Value:
    return lambda counts: round(seconds(counts) * 1e6)


def _untyped(name: str, help: str, value: Value) -> tuple[Metric, Value]:
    return Metric(name, "unknown", help, MODEL), value


FAILURE = Metric(
    "nv_inference_request_failure", "unknown", "Inference requests that were not answered, by Triton's reason.",
    ("model", "reason", "version"),
)  # fmt: skip
PENDING = Metric(
    "nv_inference_pending_request_count", "gauge", "Inference requests waiting for a batch.", MODEL
)
TOTALS: tuple[tuple[Metric, Value], ...] = (
    _untyped("nv_inference_request_success", "Inference requests answered.", lambda counts: counts.requests["OK"]),
    _untyped("nv_inference_count", "Rows that ran.", lambda counts: counts.inferences),
    _untyped("nv_inference_exec_count", "Batches that ran.", lambda counts: counts.executions),
    _untyped(
        "nv_inference_request_duration_us", "Microseconds from the arrival of answered requests to their replies.",
        _microseconds(lambda counts: counts.answered_seconds),
    ),
    _untyped(
        "nv_inference_queue_duration_us", "Microseconds that requests waited for their batch.",
        _microseconds(lambda counts: counts.queued.sum),
    ),
    _untyped(
        "nv_inference_compute_input_duration_us", "Microseconds that the batches of all requests took to assemble.",
        _microseconds(lambda counts: counts.assembly.shared),
    ),
    _untyped(
        "nv_inference_compute_infer_duration_us", "Microseconds that the batches of all requests took in the model.",
        _microseconds(lambda counts: counts.compute.shared),
    ),
    _untyped(
        "nv_inference_compute_output_duration_us", "Microseconds that the batches of all requests took to take apart.",
        _microseconds(lambda counts: counts.response.shared),
    ),
)  # fmt: skip
"""Triton's cumulative counters. Without `_total` a format that knows counters cannot call them so."""

NAMES: tuple[Metric, ...] = (*(metric for metric, _ in TOTALS), FAILURE, PENDING)


class TritonNames(Collector):
    """What `serving` has counted, under Triton's names."""

    def __init__(self, serving: ServingMetrics) -> None:
        self._serving = serving

    def describe(self) -> Iterator[Family]:
        yield from ()

    def collect(self) -> Iterator[Family]:
        models = dict(self._serving.counts)
        for metric, value in TOTALS:
            family = Family(metric.name, metric.help, "unknown")
            for model, counts in models.items():
                family.add_sample(metric.name, dict(zip(MODEL, model, strict=True)), value(counts))
            yield family
        failure = Family(FAILURE.name, FAILURE.help, "unknown")
        for (model_name, version), counts in models.items():
            for reason, ours in REASONS.items():
                labels = {"model": model_name, "reason": reason, "version": version}
                failure.add_sample(FAILURE.name, labels, sum(counts.rejected[one] for one in ours))
        yield failure
        pending = GaugeMetricFamily(PENDING.name, PENDING.help, labels=MODEL)
        for model, counts in models.items():
            pending.add_metric(model, counts.queue)
        yield pending
