"""The server on the completion queue, where it has to do what grpc.aio does: every kind of call, and every end."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from sidecar.errors import ForbiddenError
from sidecar.server import listener
from sidecar.server.completion import CompletionServer

ECHO = "/test.Echo/"


class Echo:
    """One method of each kind; messages are bytes.

    entered: a handler runs. cancelled: one was cancelled. gate: while not set, handlers of `Wait` do not end.
    """

    def __init__(self) -> None:
        self.entered, self.cancelled, self.gate = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.seen: list[bytes] = []

    async def one(self, request, context):
        self.seen.append(request)
        return request

    async def metadata(self, request, context):
        context.set_trailing_metadata((("seen", dict(context.invocation_metadata())["sent"]),))
        return context.peer().encode()

    async def remaining(self, request, context):
        return str(context.time_remaining()).encode()

    async def count(self, request, context):
        for number in range(int(request)):
            yield b"%d" % number

    async def write(self, request, context):
        await context.write(request)
        await context.write(request)

    async def join(self, requests, context):
        return b"".join([request async for request in requests])

    async def each(self, requests, context):
        async for request in requests:
            yield request.upper()

    async def stops(self, requests, context):
        async for request in requests:
            yield request
            await context.abort(grpc.StatusCode.DATA_LOSS, "enough")

    async def fails(self, request, context):
        raise ValueError("/secret/path")

    async def wait(self, request, context):
        self.entered.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return request

    async def stubborn(self, request, context):
        self.entered.set()
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
        return request

    def handlers(self):
        kinds = {
            grpc.unary_unary_rpc_method_handler: (
                "one",
                "metadata",
                "remaining",
                "fails",
                "wait",
                "stubborn",
            ),
            grpc.unary_stream_rpc_method_handler: ("count", "write"),
            grpc.stream_unary_rpc_method_handler: ("join",),
            grpc.stream_stream_rpc_method_handler: ("each", "stops"),
        }
        return {
            name: make(getattr(self, name), request_deserializer=bytes, response_serializer=bytes)
            for make, names in kinds.items()
            for name in names
        }


@pytest.fixture
async def echo():
    return Echo()


@pytest.fixture
async def server(echo):
    server = CompletionServer(None, [], {})
    server.add_registered_method_handlers("test.Echo", echo.handlers())
    server.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield server
    echo.gate.set()
    await server.stop(5.0)


@pytest.fixture
async def channel(server):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


async def test_each_kind_of_method_gives_its_messages_in_order(channel):
    assert await channel.unary_unary(ECHO + "one")(b"a") == b"a"
    assert [part async for part in channel.unary_stream(ECHO + "count")(b"3")] == [b"0", b"1", b"2"]
    assert [part async for part in channel.unary_stream(ECHO + "write")(b"w")] == [b"w", b"w"]
    assert await channel.stream_unary(ECHO + "join")(iter([b"a", b"b"])) == b"ab"
    assert [part async for part in channel.stream_stream(ECHO + "each")(iter([b"a", b"b"]))] == [b"A", b"B"]


async def test_an_empty_message_is_a_message(channel):
    assert await channel.unary_unary(ECHO + "one")(b"") == b""
    assert await channel.stream_unary(ECHO + "join")(iter([])) == b""


async def test_metadata_arrive_and_return(channel):
    call = channel.unary_unary(ECHO + "metadata")(b"", metadata=(("sent", "x"),))
    assert (await call).startswith(b"ipv4:127.0.0.1")
    assert dict(await call.trailing_metadata()) == {"seen": "x"}


async def test_what_a_stream_gave_before_it_was_aborted_arrives_and_then_its_status(channel):
    call = channel.stream_stream(ECHO + "stops")(iter([b"a", b"b"]))
    assert await call.read() == b"a"
    with pytest.raises(grpc.aio.AioRpcError, match="enough") as failed:
        await call.read()
    assert failed.value.code() is grpc.StatusCode.DATA_LOSS


async def test_a_handler_that_raises_tells_the_client_nothing_and_the_log_everything(channel, caplog):
    with pytest.raises(grpc.aio.AioRpcError, match="its log says why") as failed:
        await channel.unary_unary(ECHO + "fails")(b"")
    assert "secret" not in str(failed.value)
    assert "/secret/path" in caplog.text


async def test_a_message_that_cannot_be_parsed_is_refused_without_running_anything(echo, caplog):
    handlers = {
        "parse": grpc.unary_unary_rpc_method_handler(
            echo.one, request_deserializer=health_pb2.HealthCheckRequest.FromString
        )
    }
    server = CompletionServer(None, [], {})
    server.add_registered_method_handlers("test.Echo", handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="cannot be parsed") as failed:
            await channel.unary_unary(ECHO + "parse")(b"\xff")
    await server.stop(5.0)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (echo.seen, caplog.text) == ([], "")


async def test_a_handler_knows_how_much_time_it_has(channel):
    remaining = channel.unary_unary(ECHO + "remaining")
    assert await remaining(b"") == b"None"
    assert 0 < float(await remaining(b"", timeout=60)) < 61


async def test_a_method_that_does_not_exist_is_unimplemented(channel):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await channel.unary_unary(ECHO + "nope")(b"")
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_call_without_its_message_gets_a_status(channel):
    call = channel.stream_unary(ECHO + "one")(iter([]))
    with pytest.raises(grpc.aio.AioRpcError, match="no message came"):
        await call


async def test_a_client_that_gives_up_has_its_handler_cancelled(channel, echo):
    call = channel.unary_unary(ECHO + "wait")(b"")
    waiting = asyncio.ensure_future(call)
    await echo.entered.wait()
    call.cancel()
    await echo.cancelled.wait()
    await asyncio.wait([waiting])


async def test_a_passed_deadline_cancels_the_handler(channel, echo):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await channel.unary_unary(ECHO + "wait")(b"", timeout=0.05)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await echo.cancelled.wait()


async def test_nothing_is_kept_of_calls_that_are_over(server, channel, echo):
    for number in range(50):
        await channel.unary_unary(ECHO + "one")(b"%d" % number)
        call = channel.unary_unary(ECHO + "wait")(b"")
        waiting = asyncio.ensure_future(call)
        await echo.entered.wait()
        call.cancel()
        await asyncio.wait([waiting])
        echo.entered.clear()
    await channel.close()
    await server.stop(5.0)
    assert not server._calls
    assert len(echo.seen) == 50


async def test_stopping_finishes_what_runs_and_takes_nothing_new(server, channel, echo):
    running = asyncio.ensure_future(channel.unary_unary(ECHO + "wait")(b"in"))
    await echo.entered.wait()
    stopping = asyncio.create_task(server.stop(60.0))
    await asyncio.sleep(0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as late:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await late.unary_unary(ECHO + "one")(b"late")
    # Refused before its connection stood, or after.
    assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert echo.seen == []
    echo.gate.set()
    assert await running == b"in"
    await stopping


async def test_stopping_cancels_what_runs_longer_than_the_grace(server, channel, echo):
    running = asyncio.ensure_future(channel.unary_unary(ECHO + "wait")(b""))
    await echo.entered.wait()
    await server.stop(0.05)
    assert echo.cancelled.is_set()
    with pytest.raises(grpc.aio.AioRpcError):
        await running


async def test_a_handler_that_will_not_end_does_not_keep_the_server_from_stopping(
    server, channel, echo, caplog
):
    running = asyncio.ensure_future(channel.unary_unary(ECHO + "stubborn")(b""))
    await echo.entered.wait()
    await server.stop(0.05)
    assert "1 calls did not end when cancelled" in caplog.text
    assert echo.cancelled.is_set()
    with pytest.raises(grpc.aio.AioRpcError):
        await running


async def test_stopping_twice_is_stopping_once(server):
    await asyncio.gather(server.stop(5.0), server.stop(5.0))


async def test_a_call_that_is_not_authorised_is_refused_before_its_message_is_read(echo):
    def authorise(method, metadata):
        return None if dict(metadata).get("key") == "right" else ForbiddenError(f"no {method}")

    server = CompletionServer(authorise, [], {ECHO + "wait": None})
    server.add_registered_method_handlers("test.Echo", echo.handlers())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        one = channel.unary_unary(ECHO + "one")
        assert await one(b"a", metadata=(("key", "right"),)) == b"a"
        for call in (one(b"b"), channel.stream_unary(ECHO + "join")(iter([b"b"]))):
            with pytest.raises(grpc.aio.AioRpcError, match=r"no /test\.Echo/") as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    await server.stop(5.0)
    assert echo.seen == [b"a"]


class Directly:
    """A `call.Direct` that answers on a thread of its own what begins with "d", and leaves the rest.

    given_up: the client of a call went away.
    """

    def __init__(self) -> None:
        self.given_up, self.taken, self.calls = threading.Event(), threading.Event(), []

    def __call__(self, message, call):
        if not message.startswith(b"d"):
            return False
        self.calls.append(call)
        if message == b"dbroken":
            call.later(lambda: (call.refuse(grpc.StatusCode.INTERNAL, "late"), 1 / 0))
        elif message == b"draises":
            call.refuse(grpc.StatusCode.INTERNAL, "early")
            raise ValueError("against the contract")
        elif message == b"dwait":
            call.give_up = lambda: (call.refuse(grpc.StatusCode.CANCELLED, ""), self.given_up.set())
            self.taken.set()
        elif message == b"dno":
            threading.Thread(target=call.refuse, args=(grpc.StatusCode.NOT_FOUND, "none")).start()
        else:
            threading.Thread(target=call.respond, args=(message.upper(),)).start()
        return True


@pytest.fixture
async def directly(echo):
    direct = Directly()
    server = CompletionServer(None, [], {ECHO + "one": direct})
    server.add_registered_method_handlers("test.Echo", echo.handlers())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield direct, channel.unary_unary(ECHO + "one"), server
    await server.stop(5.0)
    assert not server._calls


async def test_a_call_may_be_answered_on_any_thread_without_the_loop(directly, echo):
    _, one, _ = directly
    assert await asyncio.gather(*(one(b"d%d" % number) for number in range(100))) == [
        b"D%d" % number for number in range(100)
    ]
    with pytest.raises(grpc.aio.AioRpcError, match="none") as refused:
        await one(b"dno")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert echo.seen == []


@pytest.mark.parametrize("message", [b"dbroken", b"draises"])
async def test_what_fails_on_the_servers_thread_leaves_all_other_calls_alone(directly, message, caplog):
    _, one, _ = directly
    with pytest.raises(grpc.aio.AioRpcError):
        await one(message)
    assert await one(b"d") == b"D"
    assert "CRITICAL" in caplog.text


async def test_a_call_that_is_not_taken_directly_goes_to_its_handler(directly, echo):
    direct, one, _ = directly
    assert await one(b"other") == b"other"
    assert (direct.calls, echo.seen) == ([], [b"other"])


async def test_who_took_a_call_directly_learns_that_its_client_is_gone(directly):
    direct, one, _ = directly
    call = one(b"dwait")
    waiting = asyncio.ensure_future(call)
    await asyncio.to_thread(direct.taken.wait, 60)
    call.cancel()
    assert await asyncio.to_thread(direct.given_up.wait, 60)
    await asyncio.wait([waiting])


async def test_many_calls_at_once_each_get_their_own_reply(channel):
    one = channel.unary_unary(ECHO + "one")
    sent = [b"%d" % number for number in range(500)]
    assert await asyncio.gather(*(one(message) for message in sent)) == sent


@pytest.mark.parametrize(("version", "kind"), [("1.85.1", CompletionServer), ("1.86.0", grpc.aio.Server)])
async def test_any_version_of_grpcio_but_those_tested_is_served_by_grpc_aio(monkeypatch, version, kind):
    monkeypatch.setattr(grpc, "__version__", version)
    assert isinstance(listener.create(None, []), kind)


def test_the_pinned_grpcio_is_a_tested_one():
    pins = Path("constraints.txt").read_text().splitlines()
    assert any(pin.startswith(f"grpcio=={version}") for pin in pins for version in listener.TESTED)


async def test_a_port_that_is_taken_is_an_error(server):
    second = CompletionServer(None, [("grpc.so_reuseport", 0)], {})
    with pytest.raises(RuntimeError, match="cannot listen"):
        second.add_insecure_port(f"127.0.0.1:{server.port}")


async def test_what_is_handed_over_is_not_done_before_its_call_has_woken_the_thread():
    server, done = CompletionServer(None, (), {}), threading.Event()

    class Waking:
        def wake(self, take):
            threading.Thread(target=take, args=(None,), daemon=True).start()
            assert not done.wait(0.05)

    server.on_thread(done.set, Waking())
    assert done.wait(60)


async def test_a_call_that_cannot_wake_the_thread_leaves_that_to_the_next():
    server, done = CompletionServer(None, (), {}), []

    class Over:
        def wake(self, take):
            raise asyncio.InvalidStateError

    class Waking:
        def wake(self, take):
            pass

    with pytest.raises(asyncio.InvalidStateError):
        server.on_thread(lambda: done.append(1), Over())
    server.on_thread(lambda: done.append(2), Waking())
    server._take_handed(None)
    assert done == [1, 2]
