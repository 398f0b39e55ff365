"""Families of samples as OpenTelemetry metrics: the same names, labels and numbers.

A native histogram of schema 3 is an exponential histogram of scale 3; its bucket i is number i - 1 there.
Data model: opentelemetry.io/docs/specs/otel/metrics/data-model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.core import Metric as Family
from prometheus_client.samples import BucketSpan, NativeHistogram, Sample

from sidecar.export.native import buckets

CUMULATIVE = AggregationTemporality.CUMULATIVE


class Span(NamedTuple):
    """What a point covers, in nanoseconds since the epoch: counters began at 0 at `start`."""

    start: int
    now: int


def metrics(families: Iterable[Family], resource: Resource, span: Span) -> MetricsData:
    """Everything as one message. What is not known, NaN in Prometheus' formats, is left out."""
    found = [Metric(family.name, family.documentation, "", _points(family, span)) for family in families]
    scope = ScopeMetrics(InstrumentationScope("sidecar"), found, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _points(family: Family, span: Span) -> Sum | Gauge | Histogram | ExponentialHistogram:
    if family.type == "histogram":
        return _histograms(family, span)
    points = [
        NumberDataPoint(sample.labels, span.start, span.now, float(sample.value))
        for sample in family.samples
        if not math.isnan(sample.value)
    ]
    return Sum(points, CUMULATIVE, is_monotonic=True) if family.type == "counter" else Gauge(points)


def _histograms(family: Family, span: Span) -> Histogram | ExponentialHistogram:
    if any(sample.native_histogram for sample in family.samples):
        return ExponentialHistogram(
            [
                _exponential(sample.labels, sample.native_histogram, span)
                for sample in family.samples
                if sample.native_histogram
            ],
            CUMULATIVE,
        )
    groups = itertools.groupby(family.samples, _without_le)
    return Histogram([_classic(dict(labels), list(samples), span) for labels, samples in groups], CUMULATIVE)


def _without_le(sample: Sample) -> tuple[tuple[str, str], ...]:
    return tuple([pair for pair in sample.labels.items() if pair[0] != "le"])


def _exponential(
    labels: dict[str, str], native: NativeHistogram, span: Span
) -> ExponentialHistogramDataPoint:
    return ExponentialHistogramDataPoint(
        attributes=labels,
        start_time_unix_nano=span.start,
        time_unix_nano=span.now,
        count=int(native.count_value),
        sum=native.sum_value,
        scale=native.schema,
        zero_count=int(native.zero_count),
        positive=_dense(native.pos_spans or (), native.pos_deltas or ()),
        negative=_dense(native.neg_spans or (), native.neg_deltas or ()),
        flags=0,
        min=math.nan,
        max=math.nan,
    )


def _dense(spans: Sequence[BucketSpan], deltas: Sequence[int]) -> Buckets:
    counts = buckets(spans, deltas)
    if not counts:
        return Buckets(0, [])
    first, last = min(counts), max(counts)
    return Buckets(first - 1, [counts.get(number, 0) for number in range(first, last + 1)])


def _classic(labels: dict[str, str], samples: Sequence[Sample], span: Span) -> HistogramDataPoint:
    cumulative = {
        float(sample.labels["le"]): int(sample.value) for sample in samples if "le" in sample.labels
    }
    (total,) = [sample.value for sample in samples if sample.name.endswith("_sum")]
    counts = [count - before for before, count in itertools.pairwise([0, *cumulative.values()])]
    return HistogramDataPoint(
        attributes=labels,
        start_time_unix_nano=span.start,
        time_unix_nano=span.now,
        count=cumulative[math.inf],
        sum=total,
        bucket_counts=counts,
        explicit_bounds=[bound for bound in cumulative if bound != math.inf],
        min=math.nan,
        max=math.nan,
    )
