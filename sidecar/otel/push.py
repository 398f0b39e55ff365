"""The thread that pushes spans and metrics to an OpenTelemetry collector.

What it cannot send is counted and forgotten.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from sidecar import __version__
from sidecar.export import catalogue
from sidecar.otel.points import Span, metrics
from sidecar.otel.spans import Spans
from sidecar.settings import OtelSettings

FLUSH_SECONDS = 1.0
"""How often spans are sent."""

TIMEOUT_SECONDS = 5.0
LARGEST_BATCH = 512


class Push(Collector):
    """spans: takes the requests. Registers what became of them with the registry whose metrics it pushes."""

    def __init__(self, settings: OtelSettings, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._interval = settings.interval_seconds
        # An id of the process' own would be a new series after each start.
        self._resource = Resource({"service.name": settings.service_name, "service.version": __version__})
        self.spans = Spans(self._resource)
        insecure = settings.endpoint.startswith("http://")
        self._spans_to = OTLPSpanExporter(settings.endpoint, insecure, timeout=TIMEOUT_SECONDS)
        self._metrics_to = OTLPMetricExporter(settings.endpoint, insecure, timeout=TIMEOUT_SECONDS)
        self._counts = dict.fromkeys(("sent", "failed"), 0)
        self._pushes = dict.fromkeys(("sent", "failed"), 0)
        self._started = time.time_ns()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sidecar-otel", daemon=True)
        registry.register(self)

    def describe(self) -> Iterator[Family]:
        """Nothing, as ServingMetrics."""
        yield from ()

    def collect(self) -> Iterator[Family]:
        spans, pushes = catalogue.OTEL_SPANS, catalogue.OTEL_PUSHES
        family = CounterMetricFamily(spans.name, spans.help, labels=spans.labels)
        for result, count in {**self._counts, "dropped": self.spans.dropped}.items():
            family.add_metric([result], count)
        yield family
        family = CounterMetricFamily(pushes.name, pushes.help, labels=pushes.labels)
        for result, count in self._pushes.items():
            family.add_metric([result], count)
        yield family

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Push once more and end; a thread that is stuck is left behind."""
        self._stop.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        due = 0.0
        stopping = False
        while not stopping:
            stopping = self._stop.wait(FLUSH_SECONDS)
            self.push_spans()
            if stopping or time.monotonic() >= due:
                due = time.monotonic() + self._interval
                self.push_metrics()
        self._spans_to.shutdown()
        self._metrics_to.shutdown()

    def push_spans(self) -> None:
        """Send what waits."""
        spans = self.spans.take()
        for begin in range(0, len(spans), LARGEST_BATCH):
            some = spans[begin : begin + LARGEST_BATCH]
            good = self._spans_to.export(some) is SpanExportResult.SUCCESS
            self._counts["sent" if good else "failed"] += len(some)

    def push_metrics(self) -> None:
        """Send all that a scrape would have."""
        content = metrics(self._registry.collect(), self._resource, Span(self._started, time.time_ns()))
        good = self._metrics_to.export(content) is MetricExportResult.SUCCESS
        self._pushes["sent" if good else "failed"] += 1
