"""ModelStreamInfer as NVIDIA's clients use it, and as they give it up."""

from __future__ import annotations

import asyncio
import queue

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from sidecar.server.server import Server
from sidecar.server.stream import FINAL, IN_FLIGHT
from sidecar.settings import BatchingSettings, ServerSettings

BATCHING = {("echo", "1"): BatchingSettings(max_delay_ms=0)}


def inputs(value, name="fp32"):
    entry = tritonclient.grpc.aio.InferInput(name, [1, 3], "FP32")
    entry.set_data_from_numpy(np.full((1, 3), value, np.float32))
    return [entry]


def message(id, model="echo"):
    request = pb.ModelInferRequest(model_name=model, id=id)
    request.inputs.add(name="fp32", datatype="FP32", shape=[1, 3])
    request.raw_input_contents.append(np.zeros(3, np.float32).tobytes())
    return request


async def test_the_asyncio_client_gets_its_replies_in_order_with_an_error_in_its_turn(
    serve, model, make_servable, fp32_spec, ledger
):
    async def requests():
        for number in range(5):
            name = "wrong" if number == 2 else "fp32"
            yield {"model_name": "echo", "inputs": inputs(number, name), "request_id": str(number)}

    async with (
        serve(make_servable(model.execute, [fp32_spec])) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        replies = [reply async for reply in client.stream_infer(requests())]
    assert [error.message() if error else result.get_response().id for result, error in replies] == [
        "0", "1", "no input 'wrong', the model takes 'fp32'", "3", "4",
    ]  # fmt: skip
    for number in (0, 1, 3, 4):
        np.testing.assert_array_equal(replies[number][0].as_numpy("fp32"), np.full((1, 3), number, "f"))
    assert ledger.codes == {"OK": 4, "INVALID_ARGUMENT": 1}


async def test_the_blocking_client_gets_its_replies_through_its_callback(
    serve, model, make_servable, fp32_spec
):
    def call(address):
        replies = queue.Queue()
        with tritonclient.grpc.InferenceServerClient(address) as client:
            client.start_stream(lambda result, error: replies.put(error or result))
            for number in range(3):
                client.async_stream_infer(
                    "echo", inputs(number), request_id=str(number), enable_empty_final_response=True
                )
            client.stop_stream()
        return [replies.get_nowait() for _ in range(3)]

    async with serve(make_servable(model.execute, [fp32_spec])) as address:
        replies = await asyncio.to_thread(call, address)
    assert [reply.get_response().id for reply in replies] == ["0", "1", "2"]
    assert all(reply.get_response().parameters[FINAL].bool_param for reply in replies)


async def test_a_failed_request_is_named_by_its_id_and_tells_nothing_of_the_inside(
    serve, model, make_servable, fp32_spec
):
    model.failure = RuntimeError("/secret")
    async with (
        serve(make_servable(model.execute, [fp32_spec])) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stream = GRPCInferenceServiceStub(channel).ModelStreamInfer()
        await stream.write(message("mine"))
        await stream.write(message("other", "nope"))
        await stream.done_writing()
        replies = [reply async for reply in stream]
        assert await stream.code() is grpc.StatusCode.OK
    assert [reply.error_message for reply in replies] == [
        "model 'echo' failed", "no model 'nope', served are 'echo'",
    ]  # fmt: skip
    assert [reply.infer_response.id for reply in replies] == ["mine", "other"]
    assert all(reply.infer_response.parameters[FINAL].bool_param for reply in replies)


async def test_requests_of_one_stream_share_batches(*, serve, model, make_servable, fp32_spec, ledger):
    model.gate.clear()
    async with (
        serve(make_servable(model.execute, [fp32_spec])) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stream = GRPCInferenceServiceStub(channel).ModelStreamInfer(map(message, "abcde"))
        while len(ledger.started) < 5:
            await asyncio.sleep(0)
        model.gate.set()
        assert [reply.infer_response.id async for reply in stream] == list("abcde")
    assert len(model.batches) <= 2


async def test_a_stream_reads_no_further_than_its_limit_ahead_of_its_replies(
    ledger, model, make_servable, fp32_spec
):
    model.gate.clear()
    server = Server(
        ServerSettings(grpc_port=0), [make_servable(model.execute, [fp32_spec])], BATCHING, ledger
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.start()}") as channel:
        stream = GRPCInferenceServiceStub(channel).ModelStreamInfer(
            message(str(number)) for number in range(3 * IN_FLIGHT)
        )
        while len(ledger.started) < IN_FLIGHT:
            await asyncio.sleep(0)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert len(ledger.started) == IN_FLIGHT
        model.gate.set()
        assert len([reply async for reply in stream]) == 3 * IN_FLIGHT
        await server.stop()


async def test_a_stream_that_its_client_leaves_cancels_what_waits(
    serve, ledger, model, make_servable, fp32_spec, caplog
):
    model.gate.clear()
    async with (
        serve(make_servable(model.execute, [fp32_spec], max_rows=1)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stream = GRPCInferenceServiceStub(channel).ModelStreamInfer()
        for id in "abc":
            await stream.write(message(id))
        await model.entered.wait()
        while len(ledger.started) < 3:
            await asyncio.sleep(0)
        stream.cancel()
        while len(ledger.finished) < 3:
            await ledger.answered.wait()
            ledger.answered.clear()
        model.gate.set()
    assert ledger.codes == {"CANCELLED": 3}
    assert len(model.batches) == 1
    assert caplog.text == ""


async def test_stopping_answers_what_a_stream_has_sent_and_ends_it_unavailable(
    ledger, model, make_servable, fp32_spec
):
    model.gate.clear()
    server = Server(
        ServerSettings(grpc_port=0), [make_servable(model.execute, [fp32_spec])], BATCHING, ledger
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.start()}") as channel:
        stream = GRPCInferenceServiceStub(channel).ModelStreamInfer()
        await stream.write(message("in"))
        await model.entered.wait()
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        model.gate.set()
        assert (await stream.read()).infer_response.id == "in"
        with pytest.raises(grpc.aio.AioRpcError, match="the server is stopping"):
            await stream.read()
        assert await stream.code() is grpc.StatusCode.UNAVAILABLE
        await stopping
    assert ledger.codes == {"OK": 1}
