"""Messages that stop half way hold no more memory than allowed, and nobody else up."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.server import partial
from sidecar.server.completion import CompletionServer
from tests.server import http2

ONE = "/test.Echo/one"
LARGEST = 2**20


@pytest.fixture
async def server(monkeypatch):
    """It looks often, and lets one message be slow."""
    monkeypatch.setattr(partial, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(partial, "BYTES", LARGEST)

    async def echo(message, context):
        return message

    server = CompletionServer(None, [("grpc.max_receive_message_length", LARGEST)], {})
    one = grpc.unary_unary_rpc_method_handler(echo, request_deserializer=bytes, response_serializer=bytes)
    server.add_registered_method_handlers("test.Echo", {"one": one})
    server.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield server
    await server.stop(5.0)


class Slow:
    def __init__(self, looks):
        self.looks = looks


def halves(stream):
    """A call's message but for its last byte, and that."""
    content = http2.message(bytes(1000))
    head = http2.frame(http2.HEADERS, http2.headers(ONE), flags=http2.END_HEADERS, stream=stream)
    first = http2.frame(http2.DATA, content[:-1], stream=stream)
    return head + first, http2.frame(http2.DATA, content[-1:], flags=http2.END_STREAM, stream=stream)


async def test_of_several_slow_messages_the_slowest_are_ended_and_the_others_are_taken(server):
    async with http2.connect(server.address) as connection:
        first, second = halves(1), halves(3)
        await connection.send(http2.PREFACE, first[0])
        while not any(call.looks > 0 for call in list(server._calls)):
            await asyncio.sleep(0)
        await connection.send(second[0])
        kind, stream, content = (await connection.frames(until=http2.HEADERS))[-1]
        assert (kind, stream) == (http2.HEADERS, 1)
        assert b"grpc-status\x018" in content  # RESOURCE_EXHAUSTED
        await connection.send(second[1])
        kind, stream, content = (await connection.frames(until=http2.HEADERS))[-1]
        assert (kind, stream) == (http2.HEADERS, 3)
        assert b"grpc-status" not in content  # the beginning of a reply


async def test_a_message_has_its_time_even_where_no_other_is_slow(server, monkeypatch):
    monkeypatch.setattr(partial, "LAST_LOOK", 5)
    async with http2.connect(server.address) as connection:
        await connection.send(http2.PREFACE, halves(1)[0])
        assert b"grpc-status\x018" in (await connection.frames(until=http2.HEADERS))[-1][2]


async def test_other_calls_are_answered_while_messages_are_not_whole(server):
    async with (
        http2.connect(server.address) as connection,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        await connection.send(http2.PREFACE, *(halves(stream)[0] for stream in range(1, 101, 2)))
        for _ in range(50):
            assert await channel.unary_unary(ONE)(b"a") == b"a"


@given(looks=st.lists(st.integers(-1, partial.LAST_LOOK + 2), max_size=40), allowed=st.integers(1, 5))
def test_no_more_slow_messages_are_left_than_allowed_and_the_slowest_go_first(looks, allowed):
    calls = [Slow(each) for each in looks]
    ended = partial.overdue(calls, partial.BYTES // allowed)
    left = [call.looks for call in calls if call not in ended and call.looks >= partial.SLOW_LOOKS]
    assert len(left) <= allowed
    assert max(left, default=0) < partial.LAST_LOOK
    early = [call.looks for call in ended if call.looks < partial.LAST_LOOK]
    assert min(early, default=partial.LAST_LOOK) >= max(left, default=partial.SLOW_LOOKS)
    assert not early or len(left) == allowed
    assert [call.looks for call in calls] == [each + (each >= 0) for each in looks]
