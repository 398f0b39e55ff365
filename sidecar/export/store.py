"""Metrics of the store of panes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from sidecar.export import catalogue
from sidecar.timeline import StoreStatus


class StoreCollector(Collector):
    """Registered where something is kept on disk."""

    def __init__(self, status: Callable[[], StoreStatus]) -> None:
        self._status = status

    def collect(self) -> Iterator[Family]:
        status = self._status()
        for metric, value in (
            (catalogue.STORE_WRITABLE, not status.detail),
            (catalogue.STORE_BYTES, status.bytes),
            (catalogue.STORE_PANES, status.panes),
            (catalogue.STORE_DROPPED, status.dropped),
            (catalogue.STORE_SET_ASIDE, status.set_aside),
            (catalogue.STORE_SECONDS, status.seconds),
        ):
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            yield kind(metric.name, metric.help, value=value)
