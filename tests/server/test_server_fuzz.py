"""Whatever a client sends, it gets a status that blames the right side, soon, and the next client its reply.

`make fuzz` runs as many examples as FUZZ_EXAMPLES says.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar._pb import open_inference_pb2 as pb
from sidecar.server import codec
from sidecar.types import DATATYPES, TensorSpec
from tests.server.infer_strategies import nearly_valid, valid, wire

METHOD = "/inference.GRPCInferenceService/"
LIMIT, TURNS = 1.0, 20
BLAMELESS = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "DEADLINE_EXCEEDED"}

# Names of two inputs are words that mutations draw, and so are their own mistakes.
MODELS = {
    "every": ([TensorSpec(name.lower(), name, (-1, 3)) for name in DATATYPES], 8),
    "typed": ([TensorSpec(name.lower(), name, (-1, 2)) for name in codec.CONTENTS], 8),
    "two": ([TensorSpec("x", "FP32", (-1, -1)), TensorSpec("..", "BYTES", (-1,))], 4),
    "alone": ([TensorSpec("x", "INT64", ()), TensorSpec("", "BYTES", (-1, 2)), TensorSpec("b", "BOOL", (-1,))], 0),
}  # fmt: skip

fuzzed = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@st.composite
def requests(draw):
    """A valid request to one of the models."""
    name = draw(st.sampled_from(list(MODELS)))
    message = draw(valid(*MODELS[name]))
    message.model_name = name
    return message


@pytest.fixture
async def channel(serve, model, make_servable):
    servables = [
        make_servable(model.execute, specs, max_rows=rows, name=name)
        for name, (specs, rows) in MODELS.items()
    ]
    async with serve(*servables) as address, grpc.aio.insecure_channel(address) as channel:
        yield channel


def good():
    message = pb.ModelInferRequest(model_name="two", raw_input_contents=[b"\0" * 8, b"\1\0\0\0a"])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    message.inputs.add(name="..", datatype="BYTES", shape=[1])
    return message


async def outcome(channel, raw):
    """Status and reply of ModelInfer to these bytes.

    The second is counted in turns of the loop, so that a machine which stands still has none of it.
    """
    call = channel.unary_unary(METHOD + "ModelInfer")(raw)
    answer = asyncio.ensure_future(answered(call))
    for _ in range(TURNS):
        if (await asyncio.wait([answer], timeout=LIMIT / TURNS))[0]:
            return (await call.code()).name, answer.result()
    raise AssertionError(f"no answer within {LIMIT} s")


async def answered(call):
    try:
        return await call
    except grpc.aio.AioRpcError as failed:
        return failed.details()


def check_reply(reply):
    """Every output has as many bytes as its shape needs."""
    response = pb.ModelInferResponse.FromString(reply)
    assert len(response.outputs) == len(response.raw_output_contents)
    for entry, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        codec.from_raw(raw, entry.datatype, tuple(entry.shape), entry.name)


@fuzzed
@given(message=requests())
async def test_a_valid_request_comes_back_as_it_went(channel, message):
    code, reply = await outcome(channel, message.SerializeToString())
    assert code == "OK", reply
    check_reply(reply)
    response = pb.ModelInferResponse.FromString(reply)
    if message.raw_input_contents:
        sent = {
            entry.name: raw for entry, raw in zip(message.inputs, message.raw_input_contents, strict=True)
        }
        for entry, raw in zip(response.outputs, response.raw_output_contents, strict=True):
            assert raw == sent[entry.name]


@fuzzed
@given(message=requests())
async def test_typed_and_raw_contents_of_every_datatype_get_the_same_bits(channel, message):
    message.ClearField("outputs")
    _, reply = await outcome(channel, message.SerializeToString())
    first = pb.ModelInferResponse.FromString(reply)
    given = dict(zip([entry.name for entry in first.outputs], first.raw_output_contents, strict=True))
    message.ClearField("raw_input_contents")
    for entry in message.inputs:
        entry.ClearField("contents")
        message.raw_input_contents.append(given[entry.name])
    _, reply = await outcome(channel, message.SerializeToString())
    assert pb.ModelInferResponse.FromString(reply).raw_output_contents == first.raw_output_contents


@fuzzed
@given(raw=wire(requests()))
async def test_any_bytes_get_a_status_soon_and_the_next_request_its_reply(channel, raw):
    code, reply = await outcome(channel, raw)
    assert code in BLAMELESS, reply
    if code == "OK":
        check_reply(reply)
    code, reply = await outcome(channel, good().SerializeToString())
    assert code == "OK", reply


@fuzzed
@given(messages=st.lists(nearly_valid(requests()), max_size=4))
async def test_every_message_of_a_stream_gets_its_reply_in_turn(channel, messages):
    call = channel.stream_stream(METHOD + "ModelStreamInfer")(
        (message.SerializeToString() for message in messages), timeout=10
    )
    replies = [pb.ModelStreamInferResponse.FromString(raw) async for raw in call]
    assert (await call.code()).name == "OK"
    assert len(replies) == len(messages)
    for message, reply in zip(messages, replies, strict=True):
        assert "log says why" not in reply.error_message
        if message.id:
            assert reply.infer_response.id == message.id


@fuzzed
@given(raw=wire(requests()))
async def test_any_bytes_in_a_stream_end_it_with_a_status_or_get_a_reply(channel, raw):
    call = channel.stream_stream(METHOD + "ModelStreamInfer")(iter([raw]), timeout=10)
    replies = 0
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for _ in call:
            replies += 1
    assert ((await call.code()).name, replies) in {("OK", 1), ("INVALID_ARGUMENT", 0)}
