"""Families as io.prometheus.client.MetricFamily messages, each after its length.

The only format of a scrape that has native histograms. Messages are put together from pieces, because protobuf merges
what is concatenated: the labels of a series, always the same, are written once.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from prometheus_client.core import Metric as Family
from prometheus_client.samples import Exemplar, NativeHistogram, Sample

from sidecar._pb import prometheus_metrics_pb2 as pb

_SERIES_KEPT = 4096

_DOUBLE = struct.Struct("<d")
_METRIC = bytes([pb.MetricFamily.DESCRIPTOR.fields_by_name["metric"].number << 3 | 2])
_SINGLE = {
    # All but the value itself, which comes last.
    kind: metric.SerializeToString()[: -_DOUBLE.size]
    for kind, metric in (
        ("counter", pb.Metric(counter=pb.Counter(value=1.0))),
        ("gauge", pb.Metric(gauge=pb.Gauge(value=1.0))),
        ("unknown", pb.Metric(untyped=pb.Untyped(value=1.0))),
    )
}

TYPES = {"counter": pb.COUNTER, "gauge": pb.GAUGE, "histogram": pb.HISTOGRAM, "unknown": pb.UNTYPED}


def protobuf(families: Iterable[Family]) -> Iterator[bytes]:
    """A piece for each series, because a family of histograms is long; concatenated they are the delimited messages."""
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        head = pb.MetricFamily(name=name, help=family.documentation, type=TYPES[family.type])
        pieces = [head.SerializeToString()]
        if family.type == "histogram":
            for labels, samples in itertools.groupby(family.samples, _without_le):
                message = pb.MetricFamily(metric=[_histogram(dict(labels), list(samples))])
                pieces.append(message.SerializeToString())
                yield b""
        else:
            for sample in family.samples:
                metric = _labels(tuple(sample.labels.items())) + _value(family.type, sample)
                pieces += (_METRIC, _varint(len(metric)), metric)
        yield _varint(sum(map(len, pieces))) + b"".join(pieces)


def _without_le(sample: Sample) -> tuple[tuple[str, str], ...]:
    return tuple([pair for pair in sample.labels.items() if pair[0] != "le"])


def _pairs(labels: Mapping[str, str]) -> list[pb.LabelPair]:
    return [pb.LabelPair(name=name, value=value) for name, value in labels.items()]


@lru_cache(maxsize=_SERIES_KEPT)
def _labels(labels: tuple[tuple[str, str], ...]) -> bytes:
    """A metric that has nothing but its labels."""
    return bytes(pb.Metric(label=_pairs(dict(labels))).SerializeToString())


def _value(kind: str, sample: Sample) -> bytes:
    """A metric that has nothing but its value."""
    if sample.exemplar is None:
        return bytes(_SINGLE[kind] + _DOUBLE.pack(sample.value))
    counter = pb.Counter(value=sample.value, exemplar=_exemplar(sample.exemplar))
    return bytes(pb.Metric(counter=counter).SerializeToString())


def _histogram(labels: Mapping[str, str], samples: list[Sample]) -> pb.Metric:
    histogram = pb.Histogram()
    for sample in samples:
        if sample.native_histogram is not None:
            histogram.MergeFrom(_native(sample.native_histogram))
        elif sample.name.endswith("_count"):
            histogram.sample_count = int(sample.value)
        elif sample.name.endswith("_sum"):
            histogram.sample_sum = sample.value
        elif sample.labels["le"] != "+Inf" or sample.exemplar is not None:
            histogram.bucket.add(
                cumulative_count=int(sample.value),
                upper_bound=float(sample.labels["le"]),
                exemplar=_exemplar(sample.exemplar),
            )
    return pb.Metric(label=_pairs(labels), histogram=histogram)


def _native(native: NativeHistogram) -> pb.Histogram:
    return pb.Histogram(
        schema=native.schema,
        zero_threshold=native.zero_threshold,
        zero_count=int(native.zero_count),
        positive_span=[
            pb.BucketSpan(offset=span.offset, length=span.length) for span in native.pos_spans or ()
        ],
        positive_delta=native.pos_deltas or (),
        negative_span=[
            pb.BucketSpan(offset=span.offset, length=span.length) for span in native.neg_spans or ()
        ],
        negative_delta=native.neg_deltas or (),
    )


def _exemplar(exemplar: Exemplar | None) -> pb.Exemplar | None:
    if exemplar is None:
        return None
    seconds, share = divmod(float(exemplar.timestamp or 0.0), 1.0)
    at = pb.Timestamp(seconds=int(seconds), nanos=int(share * 1e9))
    return pb.Exemplar(label=_pairs(exemplar.labels), value=exemplar.value, timestamp=at)


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
