"""ModelInfer without the event loop: the same bytes, and never lost between two versions."""

from __future__ import annotations

import asyncio
import threading

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from sidecar.server import codec, wire
from sidecar.server.models import Models
from sidecar.settings import BatchingSettings
from sidecar.types import DATATYPES, InferReply, Servable, Tensor


def values(datatype, shape):
    if datatype == "BYTES":
        return np.array([b"x" * size for size in range(int(np.prod(shape)))], np.object_).reshape(shape)
    return np.arange(int(np.prod(shape))).astype(DATATYPES[datatype]).reshape(shape)


outputs = st.dictionaries(
    st.text(max_size=8),
    st.builds(
        lambda datatype, shape, turned: Tensor(
            datatype, values(datatype, shape).T if turned else values(datatype, shape)
        ),
        st.sampled_from(list(DATATYPES)),
        st.lists(st.integers(0, 9), max_size=3).map(tuple),
        st.booleans(),
    ),
    min_size=1,
    max_size=3,
)


@given(outputs=outputs, id=st.text(max_size=300), asked=st.booleans())
def test_replies_are_those_of_the_codec(outputs, id, asked):
    servable = Servable("m", "1", "python", (), (), 0, start=None)
    message = pb.ModelInferRequest()
    for name in reversed(list(outputs)) if asked else ():
        message.outputs.add(name=name)
    reply = InferReply(outputs)
    written = pb.ModelInferResponse.FromString(
        wire.serialise(reply, [entry.name for entry in message.outputs], servable, id=id)
    )
    assert written == codec.encode(reply, message, servable, id=id)


@given(st.integers(0, 2**63 - 1))
def test_lengths_are_written_as_protobuf_writes_numbers(value):
    message = pb.ModelMetadataResponse.TensorMetadata(shape=[value]).SerializeToString()
    assert message == bytes([message[0], len(message) - 2]) + wire.varint(value)


def test_a_version_is_settled_only_when_what_was_found_is_queued():
    models = Models([])
    models.admission.acquire()
    settled = threading.Event()
    threading.Thread(target=lambda: (models.settle(), settled.set()), daemon=True).start()
    assert not settled.wait(0.05)
    models.admission.release()
    assert settled.wait(60)


@pytest.fixture
def message():
    message = pb.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(12)])
    message.inputs.add(name="fp32", datatype="FP32", shape=[1, 3])
    return message


async def test_a_refusal_for_want_of_time_says_when_to_try_again(
    *, serve, model, make_servable, fp32_spec, message
):
    settings = BatchingSettings(queue_requests=1)
    async with (
        serve(make_servable(model.execute, [fp32_spec], max_rows=1), batching=settings) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        await stub.ModelInfer(message)
        model.gate.clear()
        model.entered.clear()
        running = [asyncio.ensure_future(stub.ModelInfer(message))]
        await model.entered.wait()
        running += [asyncio.ensure_future(stub.ModelInfer(message)) for _ in range(2)]
        done, waiting = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        model.gate.set()
        await asyncio.wait(waiting)
    (refused,) = done
    assert refused.exception().code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(refused.exception().trailing_metadata())["retry-after-ms"]) >= 1
