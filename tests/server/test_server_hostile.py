"""Traffic that means harm. Whatever comes, the server lives, and no orchestrator would restart it."""

from __future__ import annotations

import asyncio
import gc
import random
import zlib
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.server import http2

# Kubernetes restarts what misses so many probes of a second in a row, unless it is told otherwise.
MISSED_PROBES = 3


def infer_bytes():
    message = pb.ModelInferRequest(model_name="echo")
    message.inputs.add(name="fp32", datatype="FP32", shape=[1, 3])
    message.raw_input_contents.append(np.zeros(3, np.float32).tobytes())
    return message.SerializeToString()


@pytest.fixture
def hold(serve, model, make_servable, fp32_spec, monkeypatch):
    """`async with hold() as address:` a server that must answer probes all the time, and inference at the end."""
    monkeypatch.setattr("sidecar.server.limits.HANDSHAKE_SECONDS", 1.0)

    @asynccontextmanager
    async def hold(**settings):
        async def probe(channel):
            missed = 0
            while missed < MISSED_PROBES:
                try:
                    await soon(health_pb2_grpc.HealthStub(channel).Check, health_pb2.HealthCheckRequest(), 1)
                    missed = 0
                except TimeoutError:
                    missed += 1

        async with (
            serve(make_servable(model.execute, [fp32_spec]), **settings) as address,
            grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel,
        ):
            await channel.channel_ready()
            probing = asyncio.create_task(probe(channel))
            try:
                yield address
                assert not probing.done(), "the server would have been restarted"
            finally:
                probing.cancel()
            message = pb.ModelInferRequest.FromString(infer_bytes())
            assert await soon(GRPCInferenceServiceStub(channel).ModelInfer, message, 5)

    return hold


async def soon(method, message, seconds):
    """The core cancels some calls, whosever they are, while more than a thousand new ones wait to be taken."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await method(message)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.CANCELLED:
                    raise


async def answered(address, *parts):
    """All frames that a connection gets in answer to these bytes, up to the end of its first call."""
    async with http2.connect(address) as connection:
        if not await connection.send(http2.PREFACE, *parts):
            return []
        return await connection.frames(until=http2.HEADERS)


def status(frames):
    """The gRPC status that a call ended with at once."""
    return int(frames[-1][2].partition(b"grpc-status")[2][1:].partition(b"\0")[0][:2])


@pytest.mark.parametrize("seed", range(3))
async def test_random_bytes(hold, seed):
    noise = random.Random(seed)
    async with hold() as address:
        for length in (1, 24, 1000, 100_000):
            for start in (b"", http2.PREFACE, http2.PREFACE + http2.call(http2.INFER)[:40]):
                async with http2.connect(address) as connection:
                    await connection.send(start, noise.randbytes(length))


async def test_frames_with_random_content(hold):
    noise = random.Random(0)
    async with hold() as address:
        for kind in [*range(12), 0xFE]:
            for stream in (0, 1, 2, 2**31 - 1):
                async with http2.connect(address) as connection:
                    payload = noise.randbytes(noise.choice((0, 1, 4, 5, 8, 100, 16384)))
                    parts = (
                        http2.frame(kind, payload, flags=noise.randrange(256), stream=stream)
                        for _ in range(4)
                    )
                    await connection.send(http2.PREFACE, http2.call(http2.INFER)[:200], *parts)  # fmt: skip


async def test_connections_that_never_say_anything(hold):
    async with hold() as address:
        streams = [await asyncio.open_connection(*address.split(":")) for _ in range(200)]
        async with asyncio.timeout(10):
            for reader, _ in streams:
                await reader.read()
        for _, writer in streams:
            writer.transport.abort()


async def test_a_request_that_trickles_in(hold):
    """A byte at a time; the deadline is the client's own, so it costs a stream until the connection goes."""
    sent = http2.PREFACE + http2.call(http2.INFER, infer_bytes())
    async with hold() as address, http2.connect(address) as connection:
        for byte in sent:
            await connection.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert b"application/grpc" in (await connection.frames(until=http2.HEADERS))[-1][2]


async def test_many_calls_that_never_send_their_message(hold):
    async with hold() as address, http2.connect(address) as connection:
        await connection.send(http2.PREFACE)
        for stream in range(1, 1001, 2):
            head = http2.frame(http2.HEADERS, http2.headers(http2.INFER), flags=4, stream=stream)
            await connection.send(head)


async def test_calls_that_are_reset_as_soon_as_they_begin(hold):
    """CVE-2023-44487."""
    async with hold() as address, http2.connect(address) as connection:
        await connection.send(http2.PREFACE)
        for stream in range(1, 6_001, 2):
            head = http2.frame(http2.HEADERS, http2.headers(http2.INFER), flags=4, stream=stream)
            await connection.send(head, http2.frame(http2.RST_STREAM, (8).to_bytes(4), stream=stream))


async def test_headers_that_never_end(hold):
    async with hold() as address, http2.connect(address) as connection:
        await connection.send(http2.PREFACE, http2.frame(http2.HEADERS, http2.headers(http2.INFER), stream=1))
        more = http2.frame(http2.CONTINUATION, http2.headers("x", ("y", "z" * 1000)), stream=1)
        for _ in range(5000):
            await connection.send(more)


async def test_settings_and_empty_frames_without_end(hold):
    async with hold() as address:
        for kind in (http2.SETTINGS, http2.DATA, http2.PING, 8):
            async with http2.connect(address) as connection:
                await connection.send(http2.PREFACE, http2.call(http2.INFER)[:-5])
                for _ in range(20_000 // 500):
                    await connection.send(http2.frame(kind, b"", stream=kind == http2.DATA) * 500)


@pytest.mark.parametrize(
    "words",
    [
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 10_000,
        b"\x16\x03\x01\x02\x00",
    ],
    ids=["HTTP/1", "HTTP/1 without end", "TLS"],
)
async def test_another_protocol(hold, words):
    async with hold() as address, http2.connect(address) as connection:
        await connection.send(words)
        async with asyncio.timeout(5):
            await connection.closed()


@pytest.mark.parametrize("name", ["foo", "br", "identity,gzip", "\x7f"])
async def test_an_unknown_compression_ends_with_a_status(hold, name):
    async with hold() as address:
        frames = await answered(
            address, http2.call(http2.INFER, b"x" * 10, ("grpc-encoding", name), compressed=True)
        )
    assert status(frames) in (12, 13)  # UNIMPLEMENTED, INTERNAL


@pytest.mark.parametrize("content", [b"not gzip", zlib.compress(b"x")[:5], b""])
async def test_a_compressed_message_that_is_none_ends_with_a_status(hold, content):
    async with hold() as address:
        call = http2.call(http2.INFER, content, ("grpc-encoding", "gzip"), compressed=True)
        assert status(await answered(address, call)) != 0


@pytest.mark.parametrize(
    "path", ["", "/", "//", "/a", "/inference.GRPCInferenceService/", "/../../etc", "/" + "a/" * 3000]
)
async def test_a_method_that_is_none_ends_with_a_status(hold, path):  # fmt: skip
    async with hold() as address:
        frames = await answered(address, http2.call(path))
        assert not frames or frames[-1][0] in (http2.GOAWAY, http2.SETTINGS) or status(frames) != 0


async def test_fields_nested_without_end_are_not_followed(hold):
    """Groups of an unknown field, each in the one before: a reader that recurses runs out of stack."""
    async with hold() as address:
        answer = await answered(address, http2.call(http2.INFER, b"\xfb\x7f" * 7000))
        assert status(answer) == 3  # INVALID_ARGUMENT


async def raw(address, content):
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(http2.INFER)(content, timeout=1)
        return await call.code()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200), st.binary(max_size=8)), min_size=1))
async def test_a_message_with_wounds_always_gets_a_status_within_a_second(hold, cuts):
    content = infer_bytes()
    for start, length, patch in cuts:
        content = content[:start] + patch + content[start + length :]
    async with hold() as address:
        assert await raw(address, content) in (
            grpc.StatusCode.OK,
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.NOT_FOUND,
        )


async def test_nothing_is_left_of_hostile_calls(hold):
    async with hold() as address:
        for _ in range(20):
            async with http2.connect(address) as connection:
                await connection.send(http2.PREFACE, http2.call(http2.INFER, infer_bytes())[:-3])
    gc.collect()
    running = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert running == []


@pytest.mark.parametrize(
    "value", [b"Bearer \xff\xfe", b"Bearer \x00", b"Bearer s3cret\r\nx: y", b"Bearer \xc3\xa9"]
)
async def test_a_token_that_is_no_text_is_refused(serve, token_file, value):
    async with serve(token_file=token_file) as address:
        frames = await answered(address, http2.call(http2.LIVE, b"", ("authorization", value)))
    assert status(frames) == 16  # UNAUTHENTICATED
