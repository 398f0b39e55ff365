"""Metrics of requests and batches, kept by prometheus-client as the server reports them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from sidecar.export import catalogue
from sidecar.export.catalogue import Metric

CODES = (
    "OK", "CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED", "UNAVAILABLE", "INTERNAL",
)  # fmt: skip
"""Status names exported from the start, at 0, so that the first failure is an increase."""


class ServingMetrics(Collector):
    """A `types.ServingObserver`. Every label set of `models` exists from the start, and no other ever does."""

    def __init__(self, models: Iterable[tuple[str, str]], registry: CollectorRegistry) -> None:
        requests = Counter(*_family(catalogue.REQUESTS), registry=None)
        seconds = _histogram(catalogue.REQUEST_SECONDS)
        queued = _histogram(catalogue.QUEUE_SECONDS)
        rows = _histogram(catalogue.BATCH_ROWS)
        in_flight = Gauge(*_family(catalogue.IN_FLIGHT), registry=None)
        queue = Gauge(*_family(catalogue.QUEUE_LENGTH), registry=None)
        self._families = (requests, seconds, queued, rows, in_flight, queue)
        self._models = {
            model: _ModelMetrics(
                {code: requests.labels(*model, code) for code in CODES},
                seconds.labels(*model),
                queued.labels(*model),
                rows.labels(*model),
                in_flight.labels(*model),
                queue.labels(*model),
            )
            for model in sorted(models)
        }
        registry.register(self)

    def describe(self) -> Iterator[Family]:
        """Nothing: the names are the catalogue's, and no two of those are alike."""
        yield from ()

    def collect(self) -> Iterator[Family]:
        for metric in self._families:
            for family in metric.collect():
                # Every series is born at 0, so its time of birth would only be one more series beside it.
                family.samples = [one for one in family.samples if not one.name.endswith("_created")]
                yield family

    def request_started(self, model: str, version: str) -> None:
        self._models[model, version].in_flight.inc()

    def request_finished(self, model: str, version: str, code: str, seconds: float) -> None:
        metrics = self._models[model, version]
        metrics.in_flight.dec()
        metrics.seconds.observe(seconds)
        metrics.requests[code if code in CODES else "INTERNAL"].inc()

    def batch_finished(
        self, model: str, version: str, rows: int, queued: Sequence[float], seconds: float, failed: bool
    ) -> None:
        metrics = self._models[model, version]
        metrics.rows.observe(rows)
        for waited in queued:
            metrics.queued.observe(waited)

    def queue_length(self, model: str, version: str, requests: int) -> None:
        self._models[model, version].queue.set(requests)


class _ModelMetrics:
    """The label sets of one model, looked up once."""

    __slots__ = ("in_flight", "queue", "queued", "requests", "rows", "seconds")

    def __init__(
        self,
        requests: dict[str, Counter],
        seconds: Histogram,
        queued: Histogram,
        rows: Histogram,
        in_flight: Gauge,
        queue: Gauge,
    ) -> None:
        self.requests, self.seconds, self.queued, self.rows = requests, seconds, queued, rows
        self.in_flight, self.queue = in_flight, queue


def _family(metric: Metric) -> tuple[str, str, tuple[str, ...]]:
    return metric.name, metric.help, metric.labels


def _histogram(metric: Metric) -> Histogram:
    return Histogram(*_family(metric), registry=None, buckets=metric.buckets)
