"""Every limit of a connection, by somebody who goes beyond it."""

from __future__ import annotations

import asyncio
import gzip

import grpc
import pytest

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.server import http2


def infer_message(values=3, id=""):
    message = pb.ModelInferRequest(model_name="echo", id=id)
    message.inputs.add(name="fp32", datatype="FP32", shape=[1, values])
    message.raw_input_contents.append(bytes(4 * values))
    return message


@pytest.fixture
def echo(model, make_servable, fp32_spec):
    return make_servable(model.execute, [fp32_spec])


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_a_message_over_the_limit_is_refused_compressed_or_not(serve, echo, model, compression):
    async with (
        serve(echo, max_message_bytes=4096) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ModelInfer(infer_message(4096), compression=compression)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await stub.ModelInfer(infer_message(), compression=compression)
    assert len(model.batches) == 1


async def test_a_message_that_grows_a_thousandfold_is_refused(serve):
    bomb = gzip.compress(bytes(2**25), compresslevel=9)
    async with serve(max_message_bytes=2**20) as address, http2.connect(address) as connection:
        head = http2.headers(http2.INFER, ("grpc-encoding", "gzip"))
        await connection.send(
            http2.PREFACE, http2.frame(http2.HEADERS, head, flags=http2.END_HEADERS, stream=1)
        )
        content = http2.message(bomb, compressed=True)
        for start in range(0, len(content), 2**14):
            await connection.send(http2.frame(http2.DATA, content[start : start + 2**14], stream=1))
        frames = await connection.frames(until=http2.HEADERS)
    assert b"grpc-status\x018" in frames[-1][2]  # RESOURCE_EXHAUSTED


async def test_pings_that_come_too_often_end_the_connection(serve):
    async with serve() as address, http2.connect(address) as connection:
        await connection.send(http2.PREFACE, *[http2.frame(http2.PING, b"12345678")] * 10)
        frames = await connection.frames(until=http2.GOAWAY)
    assert b"too_many_pings" in frames[-1][2]


async def test_a_client_that_pings_as_often_as_it_may_stays(serve):
    async with serve(min_ping_seconds=0.1) as address, http2.connect(address) as connection:
        await connection.send(http2.PREFACE)
        for _ in range(6):
            await connection.send(http2.frame(http2.PING, b"12345678"))
            assert (await connection.frames(until=http2.PING))[-1][0] == http2.PING
            # The core has a clock of its own, which no test can move.
            await asyncio.sleep(0.11)


async def test_calls_beyond_the_streams_of_a_connection_wait_at_the_client(serve, echo, model, ledger):
    model.gate.clear()
    async with serve(echo, max_streams=3) as address, grpc.aio.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        await stub.ServerLive(pb.ServerLiveRequest())
        calls = [asyncio.ensure_future(stub.ModelInfer(infer_message(id=str(n)))) for n in range(8)]
        while len(ledger.started) < 3:
            await asyncio.sleep(0)
        assert len(await settled(ledger.started)) == 3
        model.gate.set()
        # The core still counts a call that its client has seen end, and may refuse the next one.
        await asyncio.gather(*calls, return_exceptions=True)


async def settled(things):
    """What is in the list when the loop has had time for more."""
    for _ in range(200):
        await asyncio.sleep(0)
    return things


async def test_a_client_that_ignores_the_limit_of_streams_is_refused_them(serve, echo, model):
    model.gate.clear()
    content = infer_message().SerializeToString()
    async with serve(echo, max_streams=3) as address, http2.connect(address) as connection:
        await connection.send(http2.PREFACE)
        await connection.frames(until=http2.SETTINGS)
        await connection.send(http2.frame(http2.SETTINGS, flags=1))
        for stream in range(1, 21, 2):
            await connection.send(http2.call(http2.INFER, content, stream=stream))
        refused = await connection.frames(until=http2.RST_STREAM)
        model.gate.set()
    assert refused[-1][2] == (7).to_bytes(4)  # REFUSED_STREAM


async def test_connections_beyond_the_limit_are_closed_and_room_is_made_by_leaving(serve):
    async def let_in(address):
        async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=0.5)
            try:
                return (await call).live
            except grpc.aio.AioRpcError:
                return False

    async with serve(max_connections=2) as address:
        async with http2.connect(address) as one, http2.connect(address) as other:
            for connection in (one, other):
                await connection.send(http2.PREFACE)
                await connection.frames(until=http2.SETTINGS)
            assert not await let_in(address)
        async with asyncio.timeout(10):
            while not await let_in(address):
                pass


@pytest.mark.parametrize("metadata", [[("x", "y" * 17_000)], [(f"x{n}", "y" * 100) for n in range(130)]])
async def test_a_call_with_too_much_metadata_is_refused(serve, metadata):
    generous = [("grpc.max_metadata_size", 2**20), ("grpc.absolute_max_metadata_size", 2**20)]
    async with serve() as address, grpc.aio.insecure_channel(address, generous) as channel:
        stub = GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ServerLive(pb.ServerLiveRequest(), metadata=metadata)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "y" * 10 not in refused.value.details()


async def test_metadata_within_the_limit_is_always_taken(serve):
    """Left to itself the core begins at 8 KiB to refuse some, by chance."""
    generous = [("grpc.max_metadata_size", 2**20), ("grpc.absolute_max_metadata_size", 2**20)]
    async with serve() as address, grpc.aio.insecure_channel(address, generous) as channel:
        for _ in range(20):
            call = GRPCInferenceServiceStub(channel).ServerLive
            assert (await call(pb.ServerLiveRequest(), metadata=[("x", "y" * 15_000)])).live


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("sidecar.server.limits.HANDSHAKE_SECONDS", 0.2)


@pytest.mark.parametrize("sent", [b"", http2.PREFACE[:10], http2.PREFACE[:24]])
async def test_whoever_does_not_finish_the_handshake_is_cut_off(serve, impatient, sent):
    async with serve() as address, http2.connect(address) as connection:
        await connection.send(sent)
        async with asyncio.timeout(5):
            await connection.closed()


async def test_a_client_that_no_longer_answers_is_found_out(serve, monkeypatch):
    monkeypatch.setattr("sidecar.server.limits.SILENCE_SECONDS", 1.0)
    monkeypatch.setattr("sidecar.server.limits.ANSWER_SECONDS", 0.1)
    async with serve() as address, http2.connect(address) as connection:
        await connection.send(http2.PREFACE)
        async with asyncio.timeout(5):
            await connection.closed()


async def test_a_connection_without_calls_is_closed_in_the_end(serve, monkeypatch):
    monkeypatch.setattr("sidecar.server.limits.IDLE_SECONDS", 1.0)
    async with serve() as address, http2.connect(address) as connection:
        await connection.send(http2.PREFACE)
        frames = await connection.frames(until=http2.GOAWAY)
    assert frames[-1][0] == http2.GOAWAY


async def test_a_connection_of_the_greatest_age_is_renewed_and_no_call_lost(serve, echo, ledger):
    async with (
        serve(echo, max_connection_seconds=0.2) as address,
        grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel,
        http2.connect(address) as connection,
    ):
        await connection.send(http2.PREFACE)
        renewed = asyncio.create_task(connection.frames(until=http2.GOAWAY))
        while not renewed.done() or len(ledger.finished) < 200:
            await GRPCInferenceServiceStub(channel).ModelInfer(infer_message())
        assert renewed.result()[-1][0] == http2.GOAWAY
    assert set(ledger.codes) == {"OK"}
