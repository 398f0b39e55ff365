"""Every call is counted once, by its method and by how it ended."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub


def message(**changes):
    request = pb.ModelInferRequest(**{"model_name": "echo", "raw_input_contents": [b"\0" * 12], **changes})
    request.inputs.add(name="fp32", datatype="FP32", shape=[1, 3])
    return request


async def end(call):
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await call


@pytest.fixture
async def channel(serve, model, make_servable, fp32_spec, token_file):
    async with (
        serve(make_servable(model.execute, [fp32_spec]), reflection=True) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield channel


async def counted(ledger, *calls):
    """Once the server knows that they have ended, which may be after their client does."""
    async with asyncio.timeout(10):
        while ledger.calls.total() < len(calls):
            await asyncio.sleep(0)
    assert sorted(ledger.calls.elements()) == sorted(calls)


async def test_answers_and_refusals_are_told_apart(channel, ledger):
    stub = GRPCInferenceServiceStub(channel)
    await stub.ModelInfer(message())
    await end(stub.ModelInfer(message(model_name="nope")))
    await end(stub.ModelInfer(message(raw_input_contents=[b""])))
    await end(channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"\xff"))
    await end(channel.unary_unary("/nobody.Knows/This")(b""))
    await stub.ServerLive(pb.ServerLiveRequest())
    await counted(
        ledger,
        ("ModelInfer", "OK"),
        ("ModelInfer", "NOT_FOUND"),
        ("ModelInfer", "INVALID_ARGUMENT"),
        ("ModelInfer", "INVALID_ARGUMENT"),
        ("This", "UNIMPLEMENTED"),
        ("ServerLive", "OK"),
    )


async def test_a_stream_is_one_call(channel, ledger):
    call = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([message(), message()]))
    assert len([reply async for reply in call]) == 2
    await counted(ledger, ("ModelStreamInfer", "OK"))


async def test_a_watch_ends_with_its_client(channel, ledger):
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    await watch.read()
    watch.cancel()
    await counted(ledger, ("Watch", "CANCELLED"))


async def test_giving_up_and_running_out_of_time_are_told_apart(channel, ledger, model):
    stub = GRPCInferenceServiceStub(channel)
    model.gate.clear()
    given_up = stub.ModelInfer(message())
    waiting = asyncio.ensure_future(end(given_up))
    await model.entered.wait()
    given_up.cancel()
    await waiting
    await end(stub.ModelInfer(message(), timeout=0.2))
    await counted(ledger, ("ModelInfer", "CANCELLED"), ("ModelInfer", "DEADLINE_EXCEEDED"))
    model.gate.set()


async def test_a_stranger_is_counted(serve, ledger, token_file):
    async with serve(token_file=token_file) as address, grpc.aio.insecure_channel(address) as channel:
        await end(GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest()))
        await counted(ledger, ("ServerLive", "UNAUTHENTICATED"))
