"""Families as io.prometheus.client.MetricFamily messages, each after its length.

The only format of a scrape that has native histograms.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import Metric as Family
from prometheus_client.samples import Exemplar, NativeHistogram, Sample

from sidecar._pb import prometheus_metrics_pb2 as pb

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
            message = pb.MetricFamily(metric=[_single(family.type, sample) for sample in family.samples])
            pieces.append(message.SerializeToString())
        # Messages in pieces: protobuf merges what is concatenated, and appends what is repeated.
        yield _varint(sum(map(len, pieces))) + b"".join(pieces)


def _without_le(sample: Sample) -> tuple[tuple[str, str], ...]:
    return tuple([pair for pair in sample.labels.items() if pair[0] != "le"])


def _pairs(labels: Mapping[str, str]) -> list[pb.LabelPair]:
    return [pb.LabelPair(name=name, value=value) for name, value in labels.items()]


def _single(kind: str, sample: Sample) -> pb.Metric:
    labels, value = _pairs(sample.labels), sample.value
    if kind == "gauge":
        return pb.Metric(label=labels, gauge=pb.Gauge(value=value))
    if kind == "unknown":
        return pb.Metric(label=labels, untyped=pb.Untyped(value=value))
    return pb.Metric(label=labels, counter=pb.Counter(value=value, exemplar=_exemplar(sample.exemplar)))


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
