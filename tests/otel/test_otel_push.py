"""Spans and metrics arrive at a collector on loopback."""

from __future__ import annotations

import asyncio
import math
import sys
from concurrent import futures
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry

from sidecar import otel
from sidecar._pb import open_inference_pb2 as pb
from sidecar.errors import ConfigError
from sidecar.export.catalogue import OF_OTEL
from sidecar.export.native import buckets
from sidecar.otel.points import Span, metrics
from sidecar.otel.push import Push
from sidecar.otel.spans import MOST_WAITING, Spans
from sidecar.server.tracing import trace_of
from sidecar.settings import OtelSettings
from sidecar.types import Cost, Trace
from tests.app.conftest import configure, serve
from tests.export.conftest import export, fixed_model, fresh_model, plain_model

__all__ = ["configure", "export", "fixed_model", "fresh_model", "plain_model", "serve"]

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


class Receiver(trace_grpc.TraceServiceServicer, metrics_grpc.MetricsServiceServicer):
    """A collector: keeps what it gets."""

    def __init__(self):
        self.spans, self.metrics = [], {}

    def Export(self, message, context):  # noqa: N802 - the protocol's own name
        if isinstance(message, trace_pb.ExportTraceServiceRequest):
            for resource in message.resource_spans:
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
            return trace_pb.ExportTraceServiceResponse()
        for resource in message.resource_metrics:
            for scope in resource.scope_metrics:
                self.metrics |= {metric.name: metric for metric in scope.metrics}
        return metrics_pb.ExportMetricsServiceResponse()


@pytest.fixture
def collector():
    receiver = Receiver()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_grpc.add_TraceServiceServicer_to_server(receiver, server)
    metrics_grpc.add_MetricsServiceServicer_to_server(receiver, server)
    receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield receiver
    server.stop(0).wait()


@contextmanager
def pushing(endpoint, registry=None):
    push = Push(OtelSettings(endpoint=endpoint), registry or CollectorRegistry())
    yield push
    push._spans_to.shutdown()
    push._metrics_to.shutdown()


def ended(spans, sampled=True):
    """A request that waited 5 ms, and whose batch took 13."""
    cost = Cost(0.001, 0.01, 0.002, 8, 8, 0.003)
    trace = Trace(TRACE_ID, SPAN_ID, sampled, queued=99.98, began=99.985, cost=cost)
    spans.traced("digits", "1", "OK", 0.021, trace)


@pytest.fixture
def spans():
    return Spans(Resource({}), lambda: 100.0, lambda: 1_000_000.0)


def test_a_request_has_spans_for_queue_batch_model_and_telemetry(spans):
    ended(spans)
    found = {span.name.removeprefix("sidecar."): span for span in spans.take()}
    assert list(found) == ["request", "queue", "batch", "model", "telemetry"]
    parents = {name: span.parent.span_id for name, span in found.items()}
    ids = {name: span.context.span_id for name, span in found.items()}
    assert parents == {
        "request": int(SPAN_ID, 16),
        "queue": ids["request"],
        "batch": ids["request"],
        "model": ids["batch"],
        "telemetry": ids["model"],
    }
    assert {span.context.trace_id for span in found.values()} == {int(TRACE_ID, 16)}
    lasted = {name: round((span.end_time - span.start_time) / 1e6) for name, span in found.items()}
    assert lasted == {"request": 21, "queue": 5, "batch": 13, "model": 10, "telemetry": 3}
    assert found["request"].end_time == 1_000_000 * 10**9
    assert all(found["request"].start_time <= span.start_time for span in found.values())


def test_a_request_that_failed_in_the_queue_has_no_span_of_a_batch(spans):
    trace = Trace(TRACE_ID, SPAN_ID, True, queued=99.98)
    spans.traced("digits", "1", "DEADLINE_EXCEEDED", 0.02, trace)
    (span,) = spans.take()
    assert (span.name, span.status.is_ok, span.attributes["sidecar.code"]) == (
        "sidecar.request", False, "DEADLINE_EXCEEDED",
    )  # fmt: skip


def test_what_the_client_does_not_record_has_no_spans(spans):
    ended(spans, sampled=False)
    assert spans.take() == []


def test_requests_beyond_those_that_may_wait_are_dropped_and_counted(spans):
    for _ in range(MOST_WAITING + 3):
        ended(spans)
    assert spans.dropped == 3
    assert len(spans.take()) == 5 * MOST_WAITING


def test_spans_arrive(collector):
    with pushing(collector.endpoint) as push:
        ended(push.spans)
        push.push_spans()
        assert sorted(span.name for span in collector.spans) == [
            f"sidecar.{name}" for name in ("batch", "model", "queue", "request", "telemetry")
        ]
        assert {span.trace_id.hex() for span in collector.spans} == {TRACE_ID}
        (request,) = [span for span in collector.spans if span.name == "sidecar.request"]
        assert request.parent_span_id.hex() == SPAN_ID


def test_every_number_of_the_catalogue_arrives_under_its_name_and_labels(collector, export, fixed_model):
    exported = export(fixed_model)
    with pushing(collector.endpoint, exported.registry) as push:
        families = {family.name: family for family in exported.registry.collect()}
        push.push_metrics()
    assert set(collector.metrics) == set(families)
    for name, family in families.items():
        metric = collector.metrics[name]
        if family.type == "histogram":
            continue
        kind = "sum" if family.type == "counter" else "gauge"
        found = {
            (*sorted((pair.key, pair.value.string_value) for pair in point.attributes),): point.as_double
            for point in getattr(metric, kind).data_points
        }
        told = {
            (*sorted(sample.labels.items()),): float(sample.value)
            for sample in family.samples
            if not math.isnan(sample.value)
        }
        assert found == told


def test_a_native_histogram_is_an_exponential_one(collector, export, fixed_model):
    exported = export(fixed_model)
    with pushing(collector.endpoint, exported.registry) as push:
        push.push_metrics()
    points = collector.metrics["sidecar_activation_value"].exponential_histogram.data_points
    family = next(one for one in exported.registry.collect() if one.name == "sidecar_activation_value")
    natives = [one.native_histogram for one in family.samples if one.native_histogram]
    for point, native in zip(points, natives, strict=True):
        assert (point.scale, point.count, point.zero_count) == (3, native.count_value, native.zero_count)
        for sign, spans, deltas in (
            (point.positive, native.pos_spans, native.pos_deltas),
            (point.negative, native.neg_spans, native.neg_deltas),
        ):
            found = {sign.offset + i + 1: n for i, n in enumerate(sign.bucket_counts) if n}
            assert found == buckets(spans, deltas)


def test_a_classic_histogram_keeps_its_buckets(export, fixed_model):
    exported = export(fixed_model)
    exported.serving.batch_finished("digits", "1", 3, [0.1], Cost())
    content = metrics(exported.registry.collect(), Resource({}), Span(1, 2))
    found = {metric.name: metric for metric in content.resource_metrics[0].scope_metrics[0].metrics}
    (point,) = found["sidecar_batch_rows"].data.data_points
    assert (point.count, point.sum, list(point.bucket_counts).index(1)) == (1, 3.0, 2)
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1


def test_what_became_of_it_is_counted(collector):
    registry = CollectorRegistry()
    with pushing(collector.endpoint, registry) as push:
        ended(push.spans)
        push.push_spans()
        push.push_metrics()
    found = {
        sample.name: sample for family in registry.collect() for sample in family.samples if sample.value
    }
    assert {metric.name for metric in OF_OTEL} == set(found)
    assert found["sidecar_otel_spans_total"].labels == {"result": "sent"}


def test_no_collector_is_no_push(monkeypatch):
    assert otel.create(OtelSettings(), CollectorRegistry()) is None


def test_without_the_extra_the_start_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sidecar.otel.push", None)
    with pytest.raises(ConfigError, match=r"activation-sidecar\[otel\]"):
        otel.create(OtelSettings(endpoint="http://127.0.0.1:4317"), CollectorRegistry())


@pytest.mark.parametrize(
    "value",
    [
        f"00-{'0' * 32}-{SPAN_ID}-01", f"00-{TRACE_ID}-{'0' * 16}-01", f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01", f"00-{TRACE_ID}-{SPAN_ID}", f"{TRACEPARENT}-more", "", "x",
    ],
)  # fmt: skip
def test_what_is_no_trace_is_as_none(value):
    assert trace_of((("traceparent", value),)) is None


@given(st.text(max_size=70) | st.binary(max_size=70))
def test_no_header_of_a_client_is_an_error(value):
    assert trace_of((("other", "x"), ("traceparent", value))) is None


def test_a_trace_is_read_and_a_later_version_may_say_more():
    trace = trace_of((("traceparent", TRACEPARENT),))
    assert (trace.trace_id, trace.span_id, trace.sampled) == (TRACE_ID, SPAN_ID, True)
    assert trace_of((("traceparent", f"00-{TRACE_ID}-{SPAN_ID}-00"),)).sampled is False
    assert trace_of((("traceparent", f"01-{TRACE_ID}-{SPAN_ID}-01-more"),)).sampled is True


async def infer(client, pixels, metadata):
    message = pb.ModelInferRequest(model_name="digits")
    message.inputs.add(name="pixels", datatype="FP32", shape=pixels.shape)
    message.raw_input_contents.append(pixels.tobytes())
    await client._stub.ModelInfer(message, timeout=60, metadata=metadata)


@pytest.mark.parametrize("tested", [True, False], ids=["completion queue", "grpc.aio"])
async def test_a_request_that_was_served_is_traced_from_queue_to_telemetry(
    serve, configure, collector, monkeypatch, tested
):
    monkeypatch.setattr("sidecar.server.listener.tested", lambda: tested)
    async with serve(configure(otel={"endpoint": collector.endpoint})) as client:
        pixels = np.zeros((1, 64), np.float32)
        await infer(client, pixels, (("traceparent", TRACEPARENT),))
        await infer(client, pixels, (("traceparent", f"{TRACEPARENT[:-1]}0"),))
        await infer(client, pixels, ())
    named = {span.name.removeprefix("sidecar."): span for span in collector.spans}
    assert sorted(named) == ["batch", "model", "queue", "request", "telemetry"]
    assert len(collector.spans) == 5
    start, end = named["request"].start_time_unix_nano, named["request"].end_time_unix_nano
    for span in collector.spans:
        assert start <= span.start_time_unix_nano <= span.end_time_unix_nano <= end
    assert collector.metrics["sidecar_requests"].sum.is_monotonic


@pytest.mark.parametrize("wanted", [True, False])
async def test_exemplars_carry_the_trace_of_the_client_where_they_are_wanted(serve, configure, wanted):
    async with serve(configure(export={"exemplars": wanted})) as client:
        await infer(client, np.full((1, 64), 1e4, np.float32), (("traceparent", TRACEPARENT),))
        # Drains once more.
        await asyncio.to_thread(client.model.observation.drainer.stop, 5)
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        lines = (await client.http.get("/metrics", headers=accept)).text.splitlines()
    marked = {line.partition("{")[0] for line in lines if TRACE_ID in line}
    names = {"sidecar_request_duration_seconds_bucket", "sidecar_activation_outliers_total"}
    assert marked == (names if wanted else set())
