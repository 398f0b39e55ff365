"""Whether certificates and tokens are those of their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from sidecar.export import catalogue


class StaleFiles(Collector):
    """stale: the settings that name files -> whether these have changed and cannot be used."""

    def __init__(self, stale: Callable[[], Mapping[str, bool]]) -> None:
        self._stale = stale

    def describe(self) -> Iterator[Family]:
        """Nothing, as ServingMetrics."""
        yield from ()

    def collect(self) -> Iterator[Family]:
        metric = catalogue.FILES_STALE
        family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for name, stale in self._stale().items():
            family.add_metric([name], stale)
        yield family
