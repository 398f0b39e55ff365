"""Histograms as families of samples, classic buckets and native histogram side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from prometheus_client.core import Metric as Family
from prometheus_client.samples import Exemplar, NativeHistogram, Sample
from prometheus_client.utils import floatToGoString

from sidecar.export.catalogue import Metric


def histograms(metric: Metric) -> Family:
    """A family of histograms without one yet."""
    return Family(metric.name, metric.help, "histogram")


def add_histogram(
    family: Family,
    labels: Mapping[str, str],
    bounds: Sequence[float],
    cumulative: Sequence[int],
    total: float,
    native: NativeHistogram | None = None,
    exemplars: Mapping[int, Exemplar] | None = None,
) -> None:
    """One histogram: counts up to each of `bounds` and of all values, and their sum.

    exemplars: by the place of the bucket. Only protobuf has a place for `native`.
    """
    name, count = family.name, cumulative[-1]
    for place, (bound, up_to) in enumerate(zip([*bounds, math.inf], cumulative, strict=True)):
        le = floatToGoString(bound)  # type: ignore[no-untyped-call]
        exemplar = exemplars.get(place) if exemplars else None
        family.samples.append(Sample(f"{name}_bucket", {**labels, "le": le}, up_to, exemplar=exemplar))
    family.samples.append(Sample(f"{name}_count", dict(labels), count))
    family.samples.append(Sample(f"{name}_sum", dict(labels), total))
    if native is not None:
        family.samples.append(Sample(name, dict(labels), count, native_histogram=native))
