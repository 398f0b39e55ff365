"""What a request may become in memory is known, and refused, before it is parsed."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from sidecar.errors import InvalidInputError
from sidecar.server import arrivals, bounds, codec
from sidecar.server.wire import CONTINUES, read_varint, varint
from sidecar.types import Servable, TensorSpec
from tests.server.infer_strategies import LARGE, field, nearly_valid, valid, wire

INFER = "/inference.GRPCInferenceService/ModelInfer"
SPECS = [
    TensorSpec("x", "FP32", (-1, -1)),
    TensorSpec("y", "BYTES", (-1,)),
    TensorSpec("z", "INT64", (-1, 2)),
]
REQUESTS = valid(SPECS, 4)
MIB = 2**20

REFUSED = {
    "empty inputs": "over 32768 inputs, parameters and strings",
    "empty outputs": "over 32768 inputs",
    "empty raw contents": "over 32768 inputs",
    "empty parameters": "over 32768 inputs",
    "distinct parameters": "over 32768 inputs",
    "distinct parameters of an input": "over 32768 inputs",
    "a shape": "over 1048576 bytes of names, shapes and parameters",
    "a shape, one by one": "over 32768 inputs",
    "empty contents of an input": "over 32768 inputs",
    "integers": "over 1048576 integers or booleans in typed contents",
    "integers, one by one": "over 32768 inputs",
    "strings": "over 32768 inputs",
    "a name": "over 1048576 bytes",
    "a parameter": "over 1048576 bytes",
    "unknown fields": "over 32768 inputs",
    "groups": "over 1048576 bytes",
}


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_what_would_grow_is_refused_with_its_limit_and_not_parsed(kind):
    raw = LARGE[kind](5 * MIB // 4)
    with pytest.raises(InvalidInputError, match=REFUSED[kind]):
        bounds.check(INFER, raw)
    assert arrivals.read(raw) is None


@pytest.mark.parametrize("kind", ["floats", "an id"])
def test_what_does_not_grow_may_be_as_large_as_the_message(kind):
    bounds.check(INFER, LARGE[kind](4 * MIB))


def servable(datatype, shape):
    return Servable("m", "1", "p", (TensorSpec("x", datatype, shape),), (), 4, start=None)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("FP32", np.arange(3 * MIB, dtype=np.float32)),
        ("FP64", np.arange(2 * MIB, dtype=np.float64)),
        ("INT64", np.arange(MIB, dtype=np.int64) << 40),
        ("BOOL", np.arange(MIB) % 2 == 0),
        ("BYTES", np.array([b"word"] * 30_000, np.object_)),
    ],
)
def test_typed_contents_that_are_large_and_allowed_come_as_they_were_sent(datatype, values):
    message = pb.ModelInferRequest(model_name="m")
    entry = message.inputs.add(name="x", datatype=datatype, shape=[1, values.size])
    getattr(entry.contents, codec.CONTENTS[datatype]).extend(values.tolist())
    request = arrivals.read(message.SerializeToString()).decode(servable(datatype, (-1, -1)), None)
    np.testing.assert_array_equal(request.inputs["x"].array[0], values)


def test_raw_contents_are_as_large_as_they_like_beside_parameters():
    message = pb.ModelInferRequest(model_name="m", raw_input_contents=[bytes(32 * MIB)])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 8 * MIB])
    message.parameters["timeout"].int64_param = 1
    request = arrivals.read(message.SerializeToString()).decode(servable("FP32", (-1, -1)), None)
    assert request.inputs["x"].array.nbytes == 32 * MIB


def test_more_raw_strings_than_allowed_are_refused_before_they_are_split():
    count = codec.MAX_STRINGS + 1
    with pytest.raises(
        InvalidInputError, match="input 'x' has 131073 BYTES values, must have at most 131072"
    ):
        codec.from_raw(bytes(4 * count), "BYTES", (count,), "x")


@given(message=nearly_valid(REQUESTS))
def test_what_an_ordinary_client_sends_is_let_through_however_small_the_messages_that_are_looked_at(message):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "SMALL_BYTES", 0)
        bounds.check(INFER, message.SerializeToString())


@settings(deadline=None)
@given(raw=wire(REQUESTS), limit=st.integers(1, 40))
def test_what_is_let_through_has_no_more_entries_than_allowed(raw, limit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "SMALL_BYTES", 0)
        patch.setattr(bounds, "MOST_FIELDS", limit)
        try:
            bounds.check(INFER, raw)
            message = pb.ModelInferRequest.FromString(raw)
        except (InvalidInputError, arrivals.DecodeError):
            return
    entries = len(message.raw_input_contents) + len(message.parameters) + len(message.outputs)
    for entry in message.inputs:
        entries += 1 + len(entry.parameters) + len(entry.contents.bytes_contents)
    assert entries <= limit


async def test_a_method_without_tensors_takes_small_messages_only(serve):
    async with serve() as address, grpc.aio.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ModelReady(pb.ModelReadyRequest(name="x" * 70_000))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "this method takes up to 65536" in refused.value.details()


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
async def test_a_client_is_told_what_was_too_much(serve, method):
    async with serve() as address, grpc.aio.insecure_channel(address) as channel:
        path, raw = INFER.replace("ModelInfer", method), field(5) * 40_000
        call = (
            channel.unary_unary(path)(raw)
            if method == "ModelInfer"
            else channel.stream_stream(path)(iter([raw]))
        )
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "over 32768 inputs, parameters and strings, must have fewer" in await call.details()


@given(st.integers(0, 2**63 - 1), st.binary(max_size=4), st.binary(max_size=4))
def test_a_varint_is_read_as_it_was_written_wherever_it_stands(value, before, after):
    written = varint(value)
    assert read_varint(before + written + after, len(before)) == (value, len(before) + len(written))


@given(st.binary(max_size=9))
def test_a_varint_that_never_ends_is_more_than_any_message_has(start):
    raw = bytes(byte | CONTINUES for byte in start)
    assert read_varint(raw, 0) == (1 << 40, len(raw))
