"""Metrics of the store of panes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from sidecar.export import catalogue
from sidecar.timeline import StoreStatus


class StoreCollector(Collector):
    """status: None where nothing is kept on disk, and then there is nothing to say."""

    def __init__(self, status: Callable[[], StoreStatus] | None) -> None:
        self._status = status

    def describe(self) -> Iterator[Family]:
        """Nothing, as what there is depends on the settings."""
        yield from ()

    def collect(self) -> Iterator[Family]:
        if self._status is None:
            return
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
