"""Metrics of requests and batches, kept as plain numbers because every request changes several of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from sidecar.export import catalogue
from sidecar.export.catalogue import Metric
from sidecar.types import MODEL_STATES

CODES = (
    "OK", "CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED", "UNAVAILABLE", "INTERNAL",
)  # fmt: skip
"""Status names exported from the start, at 0, so that the first failure is an increase."""


class ServingMetrics(Collector):
    """A `types.ServingObserver`. Every label set of `models` exists from the start, others once they have a state.

    One thread reports; a scrape on another may see a request counted in one family and not yet in the next.
    """

    def __init__(self, models: Iterable[tuple[str, str]], registry: CollectorRegistry) -> None:
        self._models = {model: _Counts() for model in sorted(models)}
        registry.register(self)

    def _all(self) -> list[tuple[tuple[str, str], _Counts]]:
        # Another thread may add a version meanwhile.
        return list(self._models.items())

    def describe(self) -> Iterator[Family]:
        """Nothing: the names are the catalogue's, and no two of those are alike."""
        yield from ()

    def collect(self) -> Iterator[Family]:
        requests = CounterMetricFamily(**_named(catalogue.REQUESTS))
        for model, counts in self._all():
            for code, count in counts.requests.items():
                requests.add_metric((*model, code), count)
        yield requests
        yield self._histogram(catalogue.REQUEST_SECONDS, lambda counts: counts.seconds)
        yield self._histogram(catalogue.QUEUE_SECONDS, lambda counts: counts.queued)
        yield self._histogram(catalogue.BATCH_ROWS, lambda counts: counts.rows)
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

    def _histogram(self, metric: Metric, choose: Callable[[_Counts], _Histogram]) -> Family:
        family = HistogramMetricFamily(**_named(metric))
        for model, counts in self._all():
            histogram = choose(counts)
            family.add_metric(model, histogram.cumulative(), histogram.sum)
        return family

    def _gauge(self, metric: Metric, choose: Callable[[_Counts], int]) -> Family:
        family = GaugeMetricFamily(**_named(metric))
        for model, counts in self._all():
            family.add_metric(model, choose(counts))
        return family

    def request_started(self, model: str, version: str) -> None:
        self._models[model, version].in_flight += 1

    def request_finished(self, model: str, version: str, code: str, seconds: float) -> None:
        counts = self._models[model, version]
        counts.in_flight -= 1
        counts.seconds.observe(seconds)
        counts.requests[code if code in counts.requests else "INTERNAL"] += 1

    def batch_finished(
        self, model: str, version: str, rows: int, queued: Sequence[float], seconds: float, failed: bool
    ) -> None:
        counts = self._models[model, version]
        counts.rows.observe(rows)
        for waited in queued:
            counts.queued.observe(waited)

    def queue_length(self, model: str, version: str, requests: int) -> None:
        self._models[model, version].queue = requests

    def model_state(self, model: str, version: str, state: str) -> None:
        self._models.setdefault((model, version), _Counts()).state = state

    def input_nonfinite(self, model: str, version: str, values: int) -> None:
        self._models[model, version].nonfinite += values


class _Histogram:
    """Counts of values up to each of `bounds`, of those above all, and their sum."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Upper bound -> count of values up to it."""
        bounds = [floatToGoString(bound) for bound in self._bounds]  # type: ignore[no-untyped-call]
        return list(zip([*bounds, "+Inf"], accumulate(list(self._counts)), strict=True))


class _Counts:
    """The numbers of one model version."""

    __slots__ = ("in_flight", "nonfinite", "queue", "queued", "requests", "rows", "seconds", "state")

    def __init__(self) -> None:
        self.requests = dict.fromkeys(CODES, 0)
        self.seconds = _Histogram(catalogue.REQUEST_SECONDS.buckets)
        self.queued = _Histogram(catalogue.QUEUE_SECONDS.buckets)
        self.rows = _Histogram(catalogue.BATCH_ROWS.buckets)
        self.in_flight = self.queue = self.nonfinite = 0
        self.state = "UNAVAILABLE"


def _named(metric: Metric) -> dict[str, Any]:
    return {"name": metric.name, "documentation": metric.help, "labels": metric.labels}
