"""Metrics of requests and batches, kept as plain numbers because every request changes several of them."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from sidecar.export import catalogue
from sidecar.export.catalogue import MODEL, Metric
from sidecar.export.families import add_histogram, histograms
from sidecar.export.latency import Histogram
from sidecar.types import MODEL_STATES, Clock, Cost, Trace

CODES = (
    "OK", "CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED", "UNAVAILABLE", "INTERNAL",
)  # fmt: skip
"""Status names exported from the start, at 0, so that the first failure is an increase."""


METHODS = {
    "/inference.GRPCInferenceService/ModelInfer": "ModelInfer",
    "/inference.GRPCInferenceService/ModelStreamInfer": "ModelStreamInfer",
    "/grpc.health.v1.Health/Check": "Check",
    "/grpc.health.v1.Health/Watch": "Watch",
}
"""Paths of methods -> what their calls are counted under; all others are `other`, so that nobody can add a label."""

CALL_CODES = (*CODES, "FAILED_PRECONDITION", "PERMISSION_DENIED", "UNIMPLEMENTED", "UNKNOWN")
"""Status names that a call can end with, unlike those of an inference request any method's."""

REASONS = (
    "cancelled", "expired", "invalid", "memory", "model", "not_ready", "other", "queue_full",
)  # fmt: skip
"""Why requests are not answered: `reason` of the classes in errors.py, and `cancelled` by the client."""


class ServingMetrics(Collector):
    """A `types.ServingObserver`. Every label set of `models` exists from the start, others once they have a state.

    clock: seconds since the epoch.
    One thread reports; a scrape on another may see a request counted in one family and not yet in the next.
    """

    def __init__(
        self, models: Iterable[tuple[str, str]], registry: CollectorRegistry, clock: Clock = time.time
    ) -> None:
        self._clock = clock
        self.counts = {model: Counts() for model in sorted(models)}
        self._calls = {(method, code): 0 for method in (*METHODS.values(), "other") for code in CALL_CODES}
        registry.register(self)

    def _all(self) -> list[tuple[tuple[str, str], Counts]]:
        # Another thread may add a version meanwhile.
        return list(self.counts.items())

    def describe(self) -> Iterator[Family]:
        """Nothing: the names are the catalogue's, and no two of those are alike."""
        yield from ()

    def collect(self) -> Iterator[Family]:
        calls = CounterMetricFamily(**_named(catalogue.CALLS))
        for labels, count in self._calls.items():
            calls.add_metric(labels, count)
        yield calls
        yield self._counters(catalogue.REQUESTS, lambda counts: counts.requests)
        yield self._counters(catalogue.REJECTED, lambda counts: counts.rejected)
        yield self._histogram(catalogue.REQUEST_SECONDS, lambda counts: counts.seconds)
        yield self._histogram(catalogue.QUEUE_SECONDS, lambda counts: counts.queued)
        yield self._histogram(catalogue.ASSEMBLY_SECONDS, lambda counts: counts.assembly)
        yield self._histogram(catalogue.COMPUTE_SECONDS, lambda counts: counts.compute)
        yield self._histogram(catalogue.RESPONSE_SECONDS, lambda counts: counts.response)
        yield self._rows()
        yield self._counter(catalogue.INPUT_BYTES, lambda counts: counts.input_bytes)
        yield self._counter(catalogue.OUTPUT_BYTES, lambda counts: counts.output_bytes)
        yield self._gauge(catalogue.IN_FLIGHT, lambda counts: counts.in_flight)
        yield self._gauge(catalogue.QUEUE_LENGTH, lambda counts: counts.queue)
        states = GaugeMetricFamily(**_named(catalogue.MODEL_STATE))
        for model, counts in self._all():
            for state in MODEL_STATES:
                states.add_metric((*model, state), counts.state == state)
        yield states
        nonfinite = CounterMetricFamily(**_named(catalogue.INPUT_NONFINITE))
        for model, counts in self._all():
            nonfinite.add_metric(model, counts.nonfinite)
        yield nonfinite

    def _histogram(self, metric: Metric, choose: Callable[[Counts], Histogram]) -> Family:
        family = histograms(metric)
        for model, counts in self._all():
            histogram = choose(counts)
            cumulative, native = histogram.read()
            add_histogram(
                family,
                dict(zip(MODEL, model, strict=True)),
                metric.buckets,
                cumulative,
                native.sum_value,
                native,
                histogram.exemplars.copy(),
            )
        return family

    def _rows(self) -> Family:
        family = histograms(catalogue.BATCH_ROWS)
        for model, counts in self._all():
            labels = dict(zip(MODEL, model, strict=True))
            rows = counts.rows
            add_histogram(family, labels, catalogue.BATCH_ROWS.buckets, rows.cumulative(), rows.sum)
        return family

    def _counter(self, metric: Metric, choose: Callable[[Counts], int]) -> Family:
        family = CounterMetricFamily(**_named(metric))
        for model, counts in self._all():
            family.add_metric(model, choose(counts))
        return family

    def _counters(self, metric: Metric, choose: Callable[[Counts], Mapping[str, int]]) -> Family:
        family = CounterMetricFamily(**_named(metric))
        for model, counts in self._all():
            for label, count in choose(counts).items():
                family.add_metric((*model, label), count)
        return family

    def _gauge(self, metric: Metric, choose: Callable[[Counts], int]) -> Family:
        family = GaugeMetricFamily(**_named(metric))
        for model, counts in self._all():
            family.add_metric(model, choose(counts))
        return family

    def call_ended(self, method: str, code: str) -> None:
        key = METHODS.get(method, "other"), code if code in CALL_CODES else "UNKNOWN"
        self._calls[key] += 1

    def request_started(self, model: str, version: str) -> None:
        self.counts[model, version].in_flight += 1

    def request_finished(self, model: str, version: str, code: str, seconds: float, reason: str) -> None:
        counts = self.counts[model, version]
        counts.in_flight -= 1
        counts.seconds.observe(seconds)
        counts.requests[code if code in counts.requests else "INTERNAL"] += 1
        if code == "OK":
            counts.answered_seconds += seconds
        else:
            counts.rejected[reason if reason in counts.rejected else "other"] += 1

    def traced(self, model: str, version: str, code: str, seconds: float, trace: Trace) -> None:
        """A `types.Traced`: its request's trace becomes the exemplar of its latency."""
        self.counts[model, version].seconds.remember(seconds, {"trace_id": trace.trace_id}, self._clock())

    def batch_finished(
        self, model: str, version: str, rows: int, queued: Sequence[float], cost: Cost | None
    ) -> None:
        counts = self.counts[model, version]
        counts.rows.observe(rows)
        for waited in queued:
            counts.queued.observe(waited)
        if cost is not None:
            counts.assembly.share(cost.assembly, len(queued))
            counts.compute.share(cost.compute, len(queued))
            counts.response.share(cost.response, len(queued))
            counts.inferences += rows
            counts.executions += 1
            counts.input_bytes += cost.input_bytes
            counts.output_bytes += cost.output_bytes

    def queue_length(self, model: str, version: str, requests: int) -> None:
        self.counts[model, version].queue = requests

    def model_state(self, model: str, version: str, state: str) -> None:
        self.counts.setdefault((model, version), Counts()).state = state

    def input_nonfinite(self, model: str, version: str, values: int) -> None:
        self.counts[model, version].nonfinite += values


class _Rows:
    """Counts of rows up to each of `bounds`, of those above all, and their sum."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[int]:
        return list(accumulate(self._counts.copy()))


class _Stage(Histogram):
    """Seconds of batches. shared: their sum, with each counted once for every request of the batch."""

    __slots__ = ("shared",)

    def __init__(self, bounds: tuple[float, ...]) -> None:
        super().__init__(bounds)
        self.shared = 0.0

    def share(self, seconds: float, requests: int) -> None:
        self.observe(seconds)
        self.shared += seconds * requests


class Counts:
    """The numbers of one model version.

    answered_seconds: of requests that were answered. inferences, executions: rows and batches that did not fail.
    """

    __slots__ = (
        "answered_seconds", "assembly", "compute", "executions", "in_flight", "inferences", "input_bytes",
        "nonfinite", "output_bytes", "queue", "queued", "rejected", "requests", "response", "rows", "seconds", "state",
    )  # fmt: skip

    def __init__(self) -> None:
        self.requests = dict.fromkeys(CODES, 0)
        self.rejected = dict.fromkeys(REASONS, 0)
        self.seconds = Histogram(catalogue.REQUEST_SECONDS.buckets)
        self.queued = Histogram(catalogue.QUEUE_SECONDS.buckets)
        self.assembly = _Stage(catalogue.ASSEMBLY_SECONDS.buckets)
        self.compute = _Stage(catalogue.COMPUTE_SECONDS.buckets)
        self.response = _Stage(catalogue.RESPONSE_SECONDS.buckets)
        self.rows = _Rows(catalogue.BATCH_ROWS.buckets)
        self.in_flight = self.queue = self.input_bytes = self.output_bytes = self.nonfinite = 0
        self.inferences = self.executions = 0
        self.answered_seconds = 0.0
        self.state = "UNAVAILABLE"


def _named(metric: Metric) -> dict[str, Any]:
    return {"name": metric.name, "documentation": metric.help, "labels": metric.labels}
