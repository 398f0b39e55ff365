"""One call on `CompletionServer`, as its handler sees it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any, Protocol

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # the stubs know nothing private

from sidecar.errors import RequestError
from sidecar.server.parsing import parse
from sidecar.server.status import code_of, text_of

_log = logging.getLogger("sidecar.server")

Handler = Any
"""A grpc.RpcMethodHandler, whose attributes its stubs do not know."""

EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs lack it

Metadata = tuple[tuple[str, str | bytes], ...]


Direct = Callable[[bytes, "Call"], bool]
"""Takes a call with one message, its bytes, on the thread that it came on, and answers it on any thread with `respond`
or `refuse`.

False: it did not, and the handler of the method does, as a task of the loop. Must be quick and never raise.
"""


class Server(Protocol):
    """What a call needs of its server. All but `spawn` are called on the server's thread."""

    def on_thread(self, function: Callable[[], None], call: Call) -> None: ...

    def on_loop(self, function: Callable[[Any], None], event: Any) -> None: ...

    def ended(self, call: Call) -> None: ...

    def spawn(self, call: Call, work: Coroutine[Any, Any, None]) -> None: ...

    def count(self, method: str, code: str) -> None: ...


_CORE_CODES: dict[grpc.StatusCode, Any] = {
    code: getattr(cygrpc.StatusCode, code.name.lower()) for code in grpc.StatusCode
}

# The core gives the end of its clock, near 2**63 seconds, for a call without deadline; the longest timeout that
# the wire can carry is far below.
_LAST_DEADLINE = 2.0**62


class Call:
    """A handler's context: what handlers use of grpc.aio.ServicerContext. `event` of the core brought the call.

    The core tells the server's thread what became of an operation; all else happens on the loop.
    looks: see `partial.Call`.
    given_up: the client is gone, and so no handler need start. give_up: called when that happens, on the server's
        thread, where a `Direct` has set it.
    """

    __slots__ = (
        "_call", "_code", "_deadline", "_details", "_direct", "_handler", "_headed", "_left", "_metadata", "_over",
        "_server", "_trailing", "give_up", "given_up", "looks", "method", "task",
    )  # fmt: skip

    def __init__(self, event: Any, server: Server) -> None:
        self.method: str = event.call_details.method.decode("latin-1")
        self.task: asyncio.Task[None] | None = None
        self.looks = -1
        self.given_up = False
        self.give_up: Callable[[], None] | None = None
        self._call = event.call
        self._deadline: float = event.call_details.deadline
        self._metadata: Metadata = event.invocation_metadata
        self._server = server
        self._left = 2  # the client's end, and the status
        self._handler: Handler = None
        self._direct: Direct | None = None
        self._headed = self._over = False
        self._code, self._details = grpc.StatusCode.OK, ""
        self._trailing: Metadata = ()
        self._start(self._closed, cygrpc.ReceiveCloseOnServerOperation(0))

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, 0 after it, None without one."""
        return None if self._deadline > _LAST_DEADLINE else max(self._deadline - time.time(), 0.0)

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    def peer(self) -> str:
        peer: bytes = self._call.peer()
        return peer.decode()

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self._trailing = metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata | None = None
    ) -> None:
        """End the call with this status, by raising grpc.aio.AbortError."""
        self._code, self._details = code, details
        self._trailing = trailing_metadata or self._trailing
        raise grpc.aio.AbortError

    async def read(self) -> Any:
        """The client's next message, or grpc.aio.EOF."""
        raw = (await self._batch(cygrpc.ReceiveMessageOperation(0))).batch_operations[0].message()
        return EOF if raw is None else self._parsed(raw)

    async def write(self, message: Any) -> None:
        """Send one of several messages. Raises asyncio.InvalidStateError where the call is over."""
        send = self._message(message)
        if not (await self._batch(*self._head(), send)).success:
            raise asyncio.InvalidStateError("the call is over")

    def later(self, function: Callable[[], None]) -> None:
        """Have the server's thread call `function`, which answers this call. May be called on any thread."""
        self._server.on_thread(function, self)

    def wake(self, tag: Callable[[Any], None]) -> None:
        """Have the server's thread call `tag` soon: a batch of no operations is over at once."""
        self._start(tag)

    def respond(self, reply: bytes) -> None:
        """End the call with its one reply, serialised. May be called on any thread."""
        self._end(grpc.StatusCode.OK, "", cygrpc.SendMessageOperation(reply, 0))

    def refuse(self, code: grpc.StatusCode, details: str, trailing: Metadata = ()) -> None:
        """End the call without a reply. May be called on any thread."""
        self._trailing = trailing
        self._end(code, details)

    def receive(self, handler: Handler, direct: Direct | None) -> None:
        """Wait for the one message of a call with one, then give it to `direct` or else to its handler, as a task."""
        self._handler, self._direct = handler, direct
        self.looks = 0
        self._start(self._received, cygrpc.ReceiveMessageOperation(0))

    def _received(self, event: Any) -> None:
        self.looks = -1
        if self._over:
            return
        raw = event.batch_operations[0].message()
        if self._direct is None or raw is None or not self._direct(raw, self):
            self._server.on_loop(self._begin, raw)

    def _begin(self, raw: bytes | None) -> None:
        self._server.spawn(self, self._unary(raw))

    async def run(self, handler: Handler) -> None:
        """Do all that a handler does of its own."""
        self._handler = handler
        if not handler.request_streaming:
            event = await self._batch(cygrpc.ReceiveMessageOperation(0))
            await self._unary(event.batch_operations[0].message())
        elif handler.response_streaming:
            await self._stream(handler.stream_stream(self._messages(), self))
        else:
            self._reply(await handler.stream_unary(self._messages(), self))

    async def _unary(self, raw: bytes | None) -> None:
        if raw is None:
            await self.abort(grpc.StatusCode.INTERNAL, "no message came")
        await self._handle(self._parsed(raw))

    async def _handle(self, request: Any) -> None:
        handler = self._handler
        if handler.response_streaming:
            await self._stream(handler.unary_stream(request, self))
        else:
            self._reply(await handler.unary_unary(request, self))

    def _parsed(self, raw: bytes | None) -> Any:
        deserialize = self._handler.request_deserializer
        return raw if raw is None or deserialize is None else parse(self.method, deserialize, raw)

    async def _messages(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not EOF:
            yield message

    async def _stream(self, given: Any) -> None:
        if inspect.isasyncgen(given):
            async for message in given:
                await self.write(message)
        else:
            await given
        self._end(self._code, self._details)

    def _reply(self, message: Any) -> None:
        self._end(self._code, self._details, self._message(message))

    def _message(self, message: Any) -> Any:
        return cygrpc.SendMessageOperation(_converted(message, self._handler.response_serializer), 0)

    def finished(self, task: asyncio.Task[None]) -> None:
        """Send the status of a handler that ended without one: it raised or was cancelled."""
        if self._over:
            return
        if task.cancelled():
            self._end(grpc.StatusCode.CANCELLED, "cancelled")
        elif isinstance(error := task.exception(), grpc.aio.AbortError):
            self._end(self._code, self._details)
        elif isinstance(error, RequestError):
            self._end(code_of(error), text_of(error))
        else:
            _log.error("a handler of %s failed", self.method, exc_info=error)
            self._end(grpc.StatusCode.UNKNOWN, "the server failed; its log says why")

    def _end(self, code: grpc.StatusCode, details: str, *reply: Any) -> None:
        status = cygrpc.SendStatusFromServerOperation(self._trailing, _CORE_CODES[code], details.encode(), 0)
        # On another thread than the caller's, all that follows may happen before the core returns.
        self._start(self._sent, *self._head(), *reply, status)
        self._over = True
        # What it belongs to mostly holds this call too, and such a circle would be the garbage collector's to find.
        self.give_up = None
        expired = code is grpc.StatusCode.CANCELLED and self.time_remaining() == 0
        self._server.count(self.method, "DEADLINE_EXCEEDED" if expired else code.name)

    def _sent(self, _event: Any) -> None:
        self._leave()

    def _head(self) -> tuple[Any, ...]:
        """The operation that must come before the first message or status."""
        if self._headed:
            return ()
        self._headed = True
        return (cygrpc.SendInitialMetadataOperation(None, 0),)

    def _closed(self, event: Any) -> None:
        if event.batch_operations[0].cancelled() and not self._over:
            if self.give_up is not None:
                self.give_up()
            else:
                self._server.on_loop(self._cancel, None)
        self._leave()

    def _cancel(self, _event: None) -> None:
        self.given_up = True
        if self.task is not None:
            self.task.cancel()

    def _leave(self) -> None:
        self._left -= 1
        if not self._left:
            self._server.ended(self)

    async def _batch(self, *operations: Any) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def wake(event: Any) -> None:
            if not future.done():
                future.set_result(event)

        self._start(partial(self._server.on_loop, wake), *operations)
        return await future

    def _start(self, tag: Callable[[Any], object], *operations: Any) -> None:
        if self._over:
            raise asyncio.InvalidStateError("the call is over")
        if refused := self._call.start_server_batch(operations, tag):
            raise asyncio.InvalidStateError(f"the core refused an operation with error {refused}")


def _converted(message: Any, convert: Callable[[Any], Any] | None) -> Any:
    """A handler that converts nothing has bytes come and go as they are."""
    return message if convert is None else convert(message)
