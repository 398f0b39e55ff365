"""Metrics of requests and batches, kept by prometheus-client as the server reports them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sidecar.export import catalogue
from sidecar.export.catalogue import Metric

CODES = (
    "OK", "CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED", "UNAVAILABLE", "INTERNAL",
)  # fmt: skip
"""Status names exported from the start, at 0, so that the first failure is an increase."""

UNKNOWN = "-"
"""Label of requests for a model that is not served: a client's words are no label."""


class ServingMetrics:
    """A `types.ServingObserver`. Every label set of `models` exists from the start."""

    def __init__(self, models: Iterable[tuple[str, str]], registry: CollectorRegistry) -> None:
        requests = Counter(*_family(catalogue.REQUESTS), registry=registry)
        seconds = _histogram(catalogue.REQUEST_SECONDS, registry)
        queued = _histogram(catalogue.QUEUE_SECONDS, registry)
        rows = _histogram(catalogue.BATCH_ROWS, registry)
        in_flight = Gauge(*_family(catalogue.IN_FLIGHT), registry=registry)
        queue = Gauge(*_family(catalogue.QUEUE_LENGTH), registry=registry)
        self._models = {
            model: _ModelMetrics(
                {code: requests.labels(*model, code) for code in CODES},
                seconds.labels(*model),
                queued.labels(*model),
                rows.labels(*model),
                in_flight.labels(*model),
                queue.labels(*model),
            )
            for model in [*sorted(models), (UNKNOWN, UNKNOWN)]
        }

    def request_started(self, model: str, version: str) -> None:
        self._of(model, version).in_flight.inc()

    def request_finished(self, model: str, version: str, code: str, seconds: float) -> None:
        metrics = self._of(model, version)
        metrics.in_flight.dec()
        metrics.seconds.observe(seconds)
        metrics.requests[code if code in CODES else "INTERNAL"].inc()

    def batch_finished(self, model: str, version: str, rows: int, queued: Sequence[float]) -> None:
        metrics = self._of(model, version)
        metrics.rows.observe(rows)
        for seconds in queued:
            metrics.queued.observe(seconds)

    def queue_length(self, model: str, version: str, requests: int) -> None:
        self._of(model, version).queue.set(requests)

    def _of(self, model: str, version: str) -> _ModelMetrics:
        return self._models.get((model, version)) or self._models[UNKNOWN, UNKNOWN]


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


def _histogram(metric: Metric, registry: CollectorRegistry) -> Histogram:
    return Histogram(*_family(metric), registry=registry, buckets=metric.buckets)
