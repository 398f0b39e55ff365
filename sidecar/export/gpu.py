"""Memory of GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from sidecar.export import catalogue


class GpuMemory(Collector):
    """memory: (number of the GPU, kind of its memory) -> bytes, of the GPUs that are in use."""

    def __init__(self, memory: Callable[[], Mapping[tuple[int, str], int]]) -> None:
        self._memory = memory

    def describe(self) -> Iterator[Family]:
        """Nothing: registering shall not ask a GPU."""
        yield from ()

    def collect(self) -> Iterator[Family]:
        metric = catalogue.GPU_MEMORY
        family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for (device, kind), size in self._memory().items():
            family.add_metric([str(device), kind], size)
        yield family
