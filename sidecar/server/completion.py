"""A server to be used like that of grpc.aio, and several times as fast, over grpcio's private layer.

grpc.aio wakes the event loop through a socket for each event of the C core, and waits for three of them in turn
for each call. Here a thread takes the events off the core's completion queue, starts at once what needs no
decision, and wakes the loop once for all messages that came while it was busy. The Cython classes underneath
promise us nothing, so `listener` says which versions of grpcio may be used.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # the stubs know nothing private

from sidecar.errors import Caught, OverloadedError
from sidecar.server import partial
from sidecar.server.call import Call, Direct, Handler, Metadata
from sidecar.server.counting import Ended, uncounted
from sidecar.server.security import Authorise
from sidecar.server.status import code_of, log_failure, text_of

_log = logging.getLogger("sidecar.server")

# Calls that the core may hand over at once; each is asked for anew when it came.
_ASKED = 16

# The core's own limit of a message.
_USUAL_LARGEST = 4 * 2**20


class CallDetails(NamedTuple):
    """What a generic handler sees, as grpc.HandlerCallDetails."""

    method: str
    invocation_metadata: Metadata


class CompletionServer:
    """Runs handlers of generated code as tasks of one event loop, unary and streaming.

    authorise: asked about every call before its message is read; None where everybody may call everything.
    direct: methods, by path, that are tried without the loop first. ended: told of the end of every call.
    """

    def __init__(
        self,
        authorise: Authorise | None,
        options: Sequence[tuple[str, Any]],
        direct: Mapping[str, Direct],
        ended: Ended = uncounted,
    ) -> None:
        self.count = ended
        self._authorise = authorise
        self._direct = direct
        self._core = cygrpc.Server(tuple(options), False)
        self._queue = cygrpc.CompletionQueue()
        self._core.register_completion_queue(self._queue)
        self._handlers: dict[str, Handler] = {}
        self._generic: list[Any] = []
        self._arrived: deque[Any] = deque()
        self._woken = False
        self._handed: deque[Callable[[], None]] = deque()
        self._thread_woken = False
        self._handing = threading.Lock()
        self._calls: set[Call] = set()
        self._largest: int = dict(options).get("grpc.max_receive_message_length", _USUAL_LARGEST)
        self._stopping = self._core_stopped = self._destroyed = False
        self._closed = asyncio.Event()
        # Stopping goes on in the core while other threads may find that it is over.
        self._core_lock = threading.Lock()
        self._thread = threading.Thread(target=self._poll, name="sidecar-grpc", daemon=True)

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        self._generic += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        self._handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    def add_insecure_port(self, address: str) -> int:
        """Listen, and return the port. Raises RuntimeError where that fails."""
        return self.add_secure_port(address, grpc.insecure_server_credentials())

    def add_secure_port(self, address: str, credentials: grpc.ServerCredentials) -> int:
        """Listen, and return the port. Raises RuntimeError where that fails."""
        port: int = self._core.add_http2_port(address.encode(), credentials._credentials)  # type: ignore[attr-defined]
        if not port:
            raise RuntimeError(f"cannot listen on {address}")
        return port

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._core.start()
        for _ in range(_ASKED):
            self._ask()
        self._thread.start()
        self._have_looked()

    async def stop(self, grace: float) -> None:
        """Take no new calls, give those that run `grace` seconds, then cancel them and give them as long again."""
        with self._core_lock:
            if not self._stopping:
                self._stopping = True
                self._core.shutdown(self._queue, self._core_stops)
        if not await self._closes_within(grace):
            with self._core_lock:
                if not self._destroyed:
                    self._core.cancel_all_calls()
            if not await self._closes_within(grace):
                _log.warning("%d calls did not end when cancelled", len(self._calls))

    def _have_looked(self) -> None:
        """Called on the loop, again and again: have the thread look at the calls whose messages are not whole."""
        if self._stopping:
            return
        self._loop.call_later(partial.LOOK_SECONDS, self._have_looked)
        one = next((call for call in list(self._calls) if call.looks >= 0), None)
        # Nothing may be begun once the queue is closed, and a call that has ended meanwhile wakes nobody.
        with self._core_lock, suppress(asyncio.InvalidStateError):
            if one is not None and not self._destroyed:
                self.on_thread(self._look, one)

    def _look(self) -> None:
        for call in partial.overdue(self._calls, self._largest):
            call.looks = -1
            refusal = OverloadedError(
                "the message is not whole after so long that it stands in the way of others"
            )
            log_failure(refusal, call.invocation_metadata(), method=call.method)
            call.refuse(code_of(refusal), text_of(refusal))

    async def _closes_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return False
        return True

    def _poll(self) -> None:
        """The thread: tells each event to whom it concerns, until the queue is closed and empty."""
        poll = self._queue.poll
        while True:
            with Caught() as caught:
                while (event := poll()).tag is not None:
                    event.tag(event)
                    # It may hold the last reference to a call, for whose end the core waits.
                    del event
                return
            # One call may be lost, and all others go on.
            _log.critical("an event of the completion queue failed", exc_info=caught.error)
            event = None

    def on_thread(self, function: Callable[[], None], call: Call) -> None:
        """Called on any thread: have the server's, which wakes once for all that came since, call `function`."""
        # Were it called before the call has woken the thread, the call could be over by then and wake nobody.
        with self._handing:
            self._handed.append(function)
            if not self._thread_woken:
                call.wake(self._take_handed)
                self._thread_woken = True

    def _take_handed(self, _event: Any) -> None:
        with self._handing:
            handed, self._handed = self._handed, deque()
            self._thread_woken = False
        while handed:
            with Caught() as caught:
                while handed:
                    handed.popleft()()
            if caught.error is not None:
                _log.critical("a call could not be answered", exc_info=caught.error)

    def on_loop(self, function: Callable[[Any], None], event: Any) -> None:
        """Called on the thread: have the loop, which wakes once for all that came since, call `function`."""
        self._arrived.append((function, event))
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        arrived = self._arrived
        try:
            while arrived:
                function, event = arrived.popleft()
                function(event)
        finally:
            if arrived:
                self._loop.call_soon(self._deliver)

    def _core_stops(self, _event: Any) -> None:
        self._core_stopped = True
        self._close_if_over()

    def ended(self, call: Call) -> None:
        """Called on the thread: the core will say no more about the call."""
        self._calls.discard(call)
        self._close_if_over()

    def _close_if_over(self) -> None:
        """End the thread. Whoever starts an operation after that ends the process, so no call may be left."""
        if self._core_stopped and not self._calls:
            with self._core_lock:
                self._destroyed = True
                self._core.destroy()
                self._queue.shutdown()
            self._loop.call_soon_threadsafe(self._closed.set)

    def _ask(self) -> None:
        """Have the core hand over one more call."""
        with self._core_lock:
            if not self._stopping:
                self._core.request_call(self._queue, self._queue, self._accept)

    def _accept(self, event: Any) -> None:
        """A call has come. If all there is to do is to wait for its message, that needs no loop."""
        if not event.success:
            return
        self._ask()
        call = Call(event, self)
        self._calls.add(call)
        metadata = call.invocation_metadata()
        if self._authorise and (refusal := self._authorise(call.method, metadata)):
            call.refuse(code_of(refusal), text_of(refusal))
            return
        handler = self._handlers.get(call.method)
        if handler is None:
            handler = self._of_generic(CallDetails(call.method, metadata))
        if handler is None:
            call.refuse(grpc.StatusCode.UNIMPLEMENTED, "no such method")
        elif handler.request_streaming:
            self.on_loop(lambda _: self.spawn(call, call.run(handler)), None)
        else:
            call.receive(handler, self._direct.get(call.method))

    def _of_generic(self, details: CallDetails) -> Handler | None:
        return next((found for one in self._generic if (found := one.service(details)) is not None), None)

    def spawn(self, call: Call, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, the handler of `call`, which is told when that ended."""
        call.task = self._loop.create_task(work)
        call.task.add_done_callback(call.finished)
        if call.given_up:
            call.task.cancel()
