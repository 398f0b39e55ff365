"""The three formats of a scrape, and who gets which."""

from __future__ import annotations

import asyncio
import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Exemplar

from sidecar._pb import prometheus_metrics_pb2 as pb
from sidecar.export.catalogue import CATALOGUE
from sidecar.export.exposition import BURST_SECONDS, LONGEST_SECONDS, STALE_SECONDS, Exposition
from sidecar.export.negotiation import chosen, gzipped
from sidecar.export.protobuf import protobuf
from sidecar.export.text import openmetrics, text

PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"


def messages(content):
    """The families of a delimited stream."""
    found, at = [], 0
    while at < len(content):
        size = shift = 0
        while True:
            byte = content[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        found.append(pb.MetricFamily.FromString(content[at : at + size]))
        at += size
    return found


@pytest.mark.parametrize(
    ("accept", "format"),
    [
        ("", "text"),
        ("*/*", "text"),
        ("application/json", "text"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text"),
        (PROTOBUF, "protobuf"),
        ("application/vnd.google.protobuf", "text"),
        (PROTOBUF.replace("delimited", "text"), "text"),
        ("application/openmetrics-text", "openmetrics"),
        ("application/openmetrics-text;version=0.0.1", "text"),
        ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;q=0.75", "openmetrics"),
        (f"application/openmetrics-text;version=1.0.0;q=0.1,{PROTOBUF};q=0.2", "protobuf"),
        ("application/openmetrics-text;q=0,text/plain;q=0.1", "text"),
        ("application/openmetrics-text;q=oops", "text"),
        (f"{PROTOBUF};q=0.8,application/openmetrics-text;version=1.0.0;q=0.8", "protobuf"),
        # What Prometheus 2.42 sends, without and with native histograms.
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "openmetrics",
        ),
        (
            f"{PROTOBUF},application/openmetrics-text;version=1.0.0;q=0.8,"
            "application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "protobuf",
        ),
    ],
)
def test_a_scraper_gets_what_it_prefers_and_anybody_else_text(accept, format):
    assert chosen(accept) == format


@given(st.text(max_size=80))
def test_no_header_is_an_error(header):
    assert chosen(header) in ("text", "openmetrics", "protobuf")
    assert gzipped(header) in (True, False)


@pytest.mark.parametrize(
    ("header", "answer"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("*", True),
        ("", False),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("br", False),
    ],
)
def test_a_page_is_compressed_for_whoever_takes_gzip(header, answer):
    assert gzipped(header) is answer


def plain_samples(families):
    """(name, labels, value) of every series that is not a native histogram."""
    return {
        (sample.name, *sorted(sample.labels.items()), repr(float(sample.value)))
        for family in families
        for sample in family.samples
        if sample.native_histogram is None
    }


def as_samples(family):
    """What a server makes of one message, classic buckets for histograms."""
    for metric in family.metric:
        labels = sorted((pair.name, pair.value) for pair in metric.label)
        match family.type:
            case pb.COUNTER:
                yield family.name, *labels, repr(metric.counter.value)
            case pb.GAUGE:
                yield family.name, *labels, repr(metric.gauge.value)
            case pb.UNTYPED:
                yield family.name, *labels, repr(metric.untyped.value)
            case pb.HISTOGRAM:
                found = metric.histogram
                for bucket in found.bucket:
                    le = ("le", f"{bucket.upper_bound:g}".replace("inf", "+Inf"))
                    yield (
                        f"{family.name}_bucket",
                        *sorted([*labels, le]),
                        repr(float(bucket.cumulative_count)),
                    )
                yield (
                    f"{family.name}_bucket",
                    *sorted([*labels, ("le", "+Inf")]),
                    repr(float(found.sample_count)),
                )
                yield f"{family.name}_count", *labels, repr(float(found.sample_count))
                yield f"{family.name}_sum", *labels, repr(found.sample_sum)


def with_short_bounds(sample):
    return tuple(
        (part[0], f"{float(part[1]):g}".replace("inf", "+Inf")) if part[0] == "le" else part
        for part in sample
    )


def test_protobuf_says_what_the_text_does(export, fixed_model, plain_model):
    registry = export(fixed_model, plain_model).registry
    families = messages(b"".join(protobuf(registry.collect())))
    found = {sample for family in families for sample in as_samples(family)}
    assert found == {with_short_bounds(sample) for sample in plain_samples(registry.collect())}


def test_every_native_histogram_of_the_catalogue_is_one_in_protobuf(export, fixed_model):
    for family in messages(b"".join(protobuf(export(fixed_model).registry.collect()))):
        metric = next(one for one in CATALOGUE if one.name == family.name)
        for series in family.metric:
            found = series.histogram
            assert (found.zero_threshold > 0, found.schema == 3) == (metric.native, metric.native)
            assert [bucket.upper_bound for bucket in found.bucket] == list(metric.buckets)


@pytest.mark.parametrize("encode", [text, openmetrics, protobuf])
def test_a_page_of_nothing_is_whole(encode):
    assert b"".join(encode([])) == (b"# EOF\n" if encode is openmetrics else b"")


def with_exemplar():
    family = CounterMetricFamily("seen", "Things.", labels=["a"])
    family.add_metric(["x"], 3)
    exemplar = Exemplar({"trace_id": "ab" * 16}, 0.5, 1_000_000.25)
    family.samples[0] = family.samples[0]._replace(exemplar=exemplar)
    return family, exemplar


def test_an_exemplar_is_in_openmetrics_and_in_protobuf_and_not_in_text():
    family, exemplar = with_exemplar()
    (read,) = parse_openmetrics(b"".join(openmetrics([family])).decode())
    assert read.samples[0].exemplar.labels == exemplar.labels
    assert (float(read.samples[0].exemplar.timestamp), read.samples[0].exemplar.value) == (1_000_000.25, 0.5)
    (message,) = messages(b"".join(protobuf([family])))
    found = message.metric[0].counter.exemplar
    assert (found.label[0].name, found.label[0].value) == ("trace_id", "ab" * 16)
    assert (found.timestamp.seconds, found.timestamp.nanos, found.value) == (1_000_000, 250_000_000, 0.5)
    assert b"#" not in b"".join(text([family])).splitlines()[-1]


@given(st.text(max_size=20), st.floats())
def test_any_label_and_any_value_survive_every_format(value, number):
    family = GaugeMetricFamily("some", "Of\nthem \\ all.", labels=["a"])
    family.add_metric([value], number)
    (message,) = messages(b"".join(protobuf([family])))
    assert message.metric[0].label[0].value == value
    assert repr(message.metric[0].gauge.value) == repr(number)
    for encode, parse in ((text, parse_text), (openmetrics, parse_openmetrics)):
        (read,) = parse(b"".join(encode([family])).decode())
        assert read.samples[0].labels == {"a": value}
        assert repr(read.samples[0].value) == repr(number)


class Counting:
    """A registry's collector that counts how often it is asked."""

    def __init__(self):
        self.asked = 0

    def describe(self):
        return []

    def collect(self):
        self.asked += 1
        yield GaugeMetricFamily("asked", "Times.", value=self.asked)


@pytest.fixture
def counted():
    """What is asked, the time, and pages of it that are kept half a second."""
    counting, now, registry = Counting(), [0.0], CollectorRegistry()
    registry.register(counting)
    return counting, now, Exposition(registry, 0.5, lambda: now[0])


async def test_a_page_is_made_once_while_the_state_stays_as_it_is(counted):
    counting, now, exposition = counted
    first = await exposition.page("text")
    now[0] = 0.49
    assert await exposition.page("text") is first
    now[0] = 0.5
    assert b"asked 2.0" in (await exposition.page("text")).plain
    assert counting.asked == 2


async def test_each_format_has_a_page_of_its_own_and_its_compressed_twin(counted):
    _, _, exposition = counted
    for format in ("text", "openmetrics", "protobuf"):
        page = await exposition.page(format)
        assert gzip.decompress(page.compressed) == page.plain
    assert (await exposition.page("text")).plain != (await exposition.page("protobuf")).plain


async def test_many_who_ask_at_once_share_one_page(counted):
    counting, _, exposition = counted
    pages = await asyncio.gather(*[exposition.page("protobuf") for _ in range(20)])
    assert counting.asked == 1
    assert len({id(page) for page in pages}) == 1


async def test_a_page_is_kept_no_longer_than_a_second_however_seldom_taps_are_drained():
    now, registry = [0.0], CollectorRegistry()
    counting = Counting()
    registry.register(counting)
    exposition = Exposition(registry, 60.0, lambda: now[0])
    await exposition.page("text")
    now[0] = LONGEST_SECONDS
    await exposition.page("text")
    assert counting.asked == 2


class Slow(Counting):
    """Takes a tenth of a second each time."""

    def __init__(self, now):
        super().__init__()
        self._now = now

    def collect(self):
        self._now[0] += 0.1
        return super().collect()


@pytest.fixture
def slow():
    now, registry = [0.0], CollectorRegistry()
    counting = Slow(now)
    registry.register(counting)
    return counting, now, Exposition(registry, 0.5, lambda: now[0])


async def test_pages_that_take_long_are_made_less_often(slow):
    counting, now, exposition = slow
    while now[0] < 1000:
        await exposition.page("text")
        now[0] += 0.5
    assert counting.asked * 0.1 <= BURST_SECONDS + 0.1 + 1000 / STALE_SECONDS * 0.1


async def test_no_page_is_older_than_five_seconds_whatever_pages_take(slow):
    counting, now, exposition = slow
    for _ in range(100):
        asked = counting.asked
        await exposition.page("text")
        now[0] += STALE_SECONDS
        await exposition.page("text")
        assert counting.asked > asked


async def test_one_who_asks_every_fifteen_seconds_always_gets_a_new_page(slow):
    counting, now, exposition = slow
    for _ in range(100):
        await exposition.page("text")
        now[0] += 15.0
    assert counting.asked == 100
