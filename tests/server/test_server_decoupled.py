"""Decoupled models as NVIDIA's clients use them: any number of replies to a request, each when it is made."""

from __future__ import annotations

import asyncio
import queue
import threading
from functools import partial

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from sidecar.errors import OverloadedError
from sidecar.server.outlet import ROOM, Outlet
from sidecar.server.server import Server
from sidecar.server.stream import FINAL, IN_FLIGHT
from sidecar.settings import BatchingSettings, ServerSettings
from sidecar.types import InferReply
from tests.server.talker import ENDLESS, FAILS, RETURNS, Talker, talking


@pytest.fixture
def talker():
    return Talker()


@pytest.fixture
def make_talking(talker):
    return partial(talking, talker)


def inputs(count):
    entry = tritonclient.grpc.InferInput("n", [1], "INT64")
    entry.set_data_from_numpy(np.array([count]))
    return [entry]


def message(count, id="mine", **parameters):
    request = pb.ModelInferRequest(model_name="talker", id=id)
    request.inputs.add(name="n", datatype="INT64", shape=[1])
    request.raw_input_contents.append(np.array([count]).tobytes())
    for name, value in parameters.items():
        request.parameters[name].bool_param = value
    return request


def told(replies):
    """Of each reply what it holds, its id, and whether it says that it is the last."""
    found = []
    for result, error in replies:
        if error:
            found.append(error.message())
            continue
        response = result.get_response()
        values = result.as_numpy("y")
        found.append(
            (response.id, None if values is None else int(values[0]), response.parameters[FINAL].bool_param)
        )
    return found


THREE_REQUESTS = [
    ("a", 0, False), ("a", 1, False), ("a", 2, False), ("a", None, True),
    ("b", None, True),
    ("c", 0, False), ("c", None, True),
]  # fmt: skip


def by_request(replies):
    """Those of one keep their order; a request that follows may overtake it."""
    return sorted(replies, key=lambda reply: reply[0])


def without_empty(replies):
    return [one for one in replies if one[1] is not None]


@pytest.mark.parametrize("empty_final", [True, False], ids=["told the end", "not told"])
async def test_the_asyncio_client_gets_every_reply_of_every_request(serve, make_talking, empty_final, ledger):
    async def requests():
        for id, count in (("a", 3), ("b", 0), ("c", 1)):
            yield {
                "model_name": "talker", "inputs": inputs(count), "request_id": id,
                "parameters": {"triton_enable_empty_final_response": empty_final},
            }  # fmt: skip

    async with (
        serve(make_talking()) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        replies = told([reply async for reply in client.stream_infer(requests())])
    assert by_request(replies) == (THREE_REQUESTS if empty_final else without_empty(THREE_REQUESTS))
    assert ledger.codes == {"OK": 3}
    assert ledger.batches == [1, 1, 1]


@pytest.mark.parametrize("empty_final", [True, False], ids=["told the end", "not told"])
async def test_the_blocking_client_gets_every_reply_through_its_callback(serve, make_talking, empty_final):
    def call(address):
        replies = queue.Queue()
        with tritonclient.grpc.InferenceServerClient(address) as client:
            client.start_stream(lambda result, error: replies.put((result, error)))
            for id, count in (("a", 3), ("b", 0), ("c", 1)):
                client.async_stream_infer(
                    "talker", inputs(count), request_id=id, enable_empty_final_response=empty_final
                )
            client.stop_stream()
        return [replies.get_nowait() for _ in range(replies.qsize())]

    async with serve(make_talking()) as address:
        replies = told(await asyncio.to_thread(call, address))
    assert by_request(replies) == (THREE_REQUESTS if empty_final else without_empty(THREE_REQUESTS))


async def test_a_reply_goes_out_before_the_next_is_made(serve, make_talking, talker):
    talker.gate = threading.Semaphore(0)
    async with serve(make_talking()) as address, grpc.aio.insecure_channel(address) as channel:
        stream = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([message(3)]))
        for number in range(3):
            talker.gate.release()
            reply = await stream.read()
            assert reply.infer_response.raw_output_contents[0] == np.int64(number).tobytes()
            assert talker.made == number + 1
        assert await stream.read() is grpc.aio.EOF


async def test_a_reply_that_the_model_returned_is_known_to_be_the_last(serve, make_talking):
    async with serve(make_talking()) as address, grpc.aio.insecure_channel(address) as channel:
        asked = message(RETURNS, triton_enable_empty_final_response=True)
        stream = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([asked]))
        (reply,) = [reply.infer_response async for reply in stream]
    assert reply.parameters[FINAL].bool_param
    assert len(reply.raw_output_contents) == 1


async def test_an_error_after_a_reply_comes_inside_the_stream_which_goes_on(serve, make_talking, ledger):
    async with serve(make_talking()) as address, grpc.aio.insecure_channel(address) as channel:
        asked = [message(FAILS, "bad"), message(1, "good")]
        stream = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(asked))
        replies = [reply async for reply in stream]
        assert await stream.code() is grpc.StatusCode.OK
    seen = [
        (reply.infer_response.id, reply.error_message, reply.infer_response.parameters[FINAL].bool_param)
        for reply in replies
    ]
    assert by_request(seen) == [
        ("bad", "", False), ("bad", "model 'talker' failed", True), ("good", "", False),
    ]  # fmt: skip
    assert ledger.codes == {"INTERNAL": 1, "OK": 1}


async def test_a_request_that_does_not_fit_costs_the_stream_nothing(serve, make_talking, talker):
    wrong = message(1, "wrong")
    wrong.inputs[0].name = "m"
    async with serve(make_talking()) as address, grpc.aio.insecure_channel(address) as channel:
        asked = [wrong, message(1, "good"), message(1, triton_enable_empty_final_response=True)]
        asked[2].parameters["triton_enable_empty_final_response"].int64_param = 1
        stream = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(asked))
        replies = [reply async for reply in stream]
    assert {reply.error_message for reply in replies} == {
        "",
        "no input 'm', the model takes 'n'",
        "parameter 'triton_enable_empty_final_response' is 1, must be a bool",
    }
    assert talker.made == 1


async def test_model_infer_is_refused_before_the_model_runs(serve, make_talking, talker, ledger):
    async with (
        serve(make_talking()) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        refused = r"'talker' is decoupled .* use ModelStreamInfer"
        with pytest.raises(InferenceServerException, match=refused) as refusal:
            await client.infer("talker", inputs(1))
    assert refusal.value.status() == "StatusCode.UNIMPLEMENTED"
    assert ledger.codes == {"UNIMPLEMENTED": 1}
    assert talker.made == 0


async def test_the_configuration_says_decoupled(serve, make_talking):
    async with (
        serve(make_talking()) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        config = (await client.get_model_config("talker")).config
    assert config.model_transaction_policy.decoupled
    assert config.max_batch_size == 0


@pytest.mark.parametrize("deadline", [None, 0.5], ids=["cancelled", "deadline"])
async def test_a_client_that_is_gone_ends_a_generation_without_end(
    serve, make_talking, talker, ledger, deadline, caplog, monkeypatch
):
    # The model waits for room here, and on a machine that stands still the loop may come later than its patience ends.
    monkeypatch.setattr("sidecar.server.service.Outlet", partial(Outlet, patience=600.0))
    async with serve(make_talking()) as address, grpc.aio.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        stream = stub.ModelStreamInfer(iter([message(ENDLESS)]), timeout=deadline)
        await stream.read()
        if deadline is None:
            stream.cancel()
        await talker.until_closed()
        after = stub.ModelStreamInfer(iter([message(1, "after")]))
        assert (await after.read()).infer_response.id == "after"
    # Client and server have a clock each, and one of them is the first to see the deadline pass.
    (code,) = ledger.codes.keys() - {"OK"}
    assert code in ({"CANCELLED"} if deadline is None else {"CANCELLED", "DEADLINE_EXCEEDED"})
    assert caplog.text == ""


async def test_a_client_that_left_while_its_request_waited_costs_the_model_nothing(
    serve, make_talking, talker, ledger
):
    talker.gate = threading.Semaphore(0)
    async with serve(make_talking()) as address, grpc.aio.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        first = stub.ModelStreamInfer(iter([message(2, "a")]))
        talker.gate.release()
        await first.read()
        second = stub.ModelStreamInfer(iter([message(1, "b")]))
        while len(ledger.started) < 2:
            await asyncio.sleep(0)
        second.cancel()
        await ledger.answered.wait()
        talker.gate.release(2)
        assert (await first.read()).infer_response.id == "a"
        assert await first.read() is grpc.aio.EOF
    assert talker.made == 2


async def test_one_that_does_not_read_loses_its_request_and_holds_up_nobody_for_longer(
    serve, make_talking, talker, monkeypatch
):
    monkeypatch.setattr("sidecar.server.service.Outlet", partial(Outlet, patience=0.01))
    talker.size = 2**17
    async with serve(make_talking()) as address, grpc.aio.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        lazy = stub.ModelStreamInfer(iter([message(ENDLESS, "lazy")]))
        await talker.until_closed()
        assert talker.made < 10 * ROOM
        talker.size = 1
        other = stub.ModelStreamInfer(iter([message(1, "other")]))
        assert (await other.read()).infer_response.id == "other"
        *_, last = [reply async for reply in lazy]
    assert last.error_message == "the replies were not read for 0.01 s, and others wait"


async def test_requests_with_one_reply_do_not_wait_for_a_generation_on_their_stream(
    serve, make_talking, make_servable, model, fp32_spec, talker
):
    talker.gate = threading.Semaphore(0)
    plain = pb.ModelInferRequest(model_name="echo", id="plain")
    plain.inputs.add(name="fp32", datatype="FP32", shape=[1, 3])
    plain.raw_input_contents.append(bytes(12))
    async with (
        serve(make_talking(), make_servable(model.execute, [fp32_spec])) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        asked = iter([message(1, "long"), plain])
        stream = GRPCInferenceServiceStub(channel).ModelStreamInfer(asked)
        assert (await stream.read()).infer_response.id == "plain"
        talker.gate.release()
        assert (await stream.read()).infer_response.id == "long"


async def test_generations_of_two_instances_take_turns_on_a_stream(serve, make_talking, talker):
    talker.gate = threading.Semaphore(0)
    async with serve(make_talking(instances=2)) as address, grpc.aio.insecure_channel(address) as channel:
        asked = iter([message(ENDLESS, "a"), message(ENDLESS, "b")])
        stream = GRPCInferenceServiceStub(channel).ModelStreamInfer(asked)
        seen = set()
        while len(seen) < 2:
            talker.gate.release()
            seen.add((await stream.read()).infer_response.id)
        stream.cancel()
        gate, talker.gate = talker.gate, None
        gate.release(2)
        await talker.until_closed(2)


async def test_a_stream_begins_no_more_generations_than_its_limit(serve, make_talking, talker, ledger):
    talker.gate = threading.Semaphore(0)
    async with serve(make_talking()) as address, grpc.aio.insecure_channel(address) as channel:
        asked = (message(1, str(number)) for number in range(2 * IN_FLIGHT))
        stream = GRPCInferenceServiceStub(channel).ModelStreamInfer(asked)
        while len(ledger.started) < IN_FLIGHT:
            await asyncio.sleep(0)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert len(ledger.started) == IN_FLIGHT
        talker.gate.release(2 * IN_FLIGHT)
        assert len([reply async for reply in stream]) == 2 * IN_FLIGHT


async def test_stopping_ends_no_generation_that_has_begun(make_talking, talker, ledger, front_end):
    talker.gate = threading.Semaphore(0)
    server = Server(
        ServerSettings(grpc_port=0), [make_talking()], {("talker", "1"): BatchingSettings()}, ledger
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.start()}") as channel:
        stream = GRPCInferenceServiceStub(channel).ModelStreamInfer()
        await stream.write(message(3))
        talker.gate.release()
        await stream.read()
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        talker.gate.release(2)
        assert [(await stream.read()).error_message for _ in range(2)] == ["", ""]
        with pytest.raises(grpc.aio.AioRpcError, match="the server is stopping"):
            await stream.read()
        await stopping
    assert ledger.codes == {"OK": 1}


REPLY = InferReply({})


async def test_an_outlet_holds_so_many_replies_and_no_more():
    outlet = Outlet(patience=0.01)
    assert all([await asyncio.to_thread(outlet.send, REPLY) for _ in range(ROOM)])
    await outlet.next()
    assert await asyncio.to_thread(outlet.send, REPLY)
    assert not await asyncio.to_thread(outlet.send, REPLY)
    for _ in range(ROOM):
        assert await outlet.next() == (REPLY, True)
    with pytest.raises(OverloadedError):
        await outlet.next()


async def test_an_outlet_that_is_closed_lets_go_of_a_model_that_waits_for_room():
    outlet = Outlet(patience=60.0)
    for _ in range(ROOM):
        await asyncio.to_thread(outlet.send, REPLY)
    waiting = asyncio.create_task(asyncio.to_thread(outlet.send, REPLY))
    await asyncio.sleep(0)
    outlet.close()
    assert not await waiting
    assert not await asyncio.to_thread(outlet.send, REPLY)


async def test_only_the_first_who_claims_an_outlet_has_it():
    outlet = Outlet()
    assert [outlet.claim() for _ in range(3)] == [True, False, False]
