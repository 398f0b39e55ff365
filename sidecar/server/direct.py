"""ModelInfer without the event loop: the thread that takes a call queues its request, the model's thread answers it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Literal, Protocol

import grpc

from sidecar.errors import ExpiredError
from sidecar.server import wire
from sidecar.server.arrivals import Arrival
from sidecar.server.batching import Batcher
from sidecar.server.models import Models
from sidecar.server.status import Metadata, advice_of, code_of, log_failure, reason_of, text_of
from sidecar.types import Clock, InferReply, InferRequest, Servable, ServingObserver, Trace, Traced


class Caller(Protocol):
    """Who a request comes from: what of `Call`, and of a context of `grpc.aio`, makes a request of a message."""

    def time_remaining(self) -> float | None: ...

    def invocation_metadata(self) -> Metadata | None: ...


Decode = Callable[[Servable, float | None], InferRequest]
"""The checked request of a message for a servable, and its deadline. Raises InvalidInputError."""


Prepare = Callable[[Decode, Batcher, float, Caller], InferRequest]
"""The request for a batcher, when it came (`clock` seconds) and from whom. May raise."""


class Call(Protocol):
    """What of `call.Call` is needed here."""

    give_up: Callable[[], None] | None

    def time_remaining(self) -> float | None: ...

    def invocation_metadata(self) -> Metadata: ...

    def later(self, function: Callable[[], None]) -> None: ...

    def respond(self, reply: bytes) -> None: ...

    def refuse(
        self, code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, str], ...] = ()
    ) -> None: ...


class Inferences:
    """Begins one inference for each request. clock: monotonic seconds, the batchers' own. traced: see `Traced`."""

    def __init__(
        self,
        models: Models,
        prepare: Prepare,
        observer: ServingObserver,
        clock: Clock,
        traced: Traced | None = None,
    ) -> None:
        self.traced = traced
        self.models = models
        self.prepare = prepare
        self.observer = observer
        self.clock = clock

    def begin(self, arrival: Arrival, call: Call) -> None:
        """Never raises: what goes wrong becomes the status of the call."""
        inference = _Inference(self, arrival, call)
        with inference:
            inference.begin()


class _Inference:
    """One request. Whatever is raised inside of `with inference:` ends its call with the status for that."""

    __slots__ = ("_arrival", "_batcher", "_call", "_shared", "_started", "_trace", "_waiting")

    def __init__(self, shared: Inferences, arrival: Arrival, call: Call) -> None:
        self._shared = shared
        self._arrival = arrival
        self._call = call
        self._batcher: Batcher | None = None
        self._trace: Trace | None = None

    def begin(self) -> None:
        shared, arrival = self._shared, self._arrival
        # Until the request is queued, the version that was found for it must not be closed.
        with shared.models.admission:
            batcher = shared.models.route(arrival.head.message, arrival.id)
            self._started = shared.clock()
            shared.observer.request_started(batcher.servable.name, batcher.servable.version)
            self._batcher = batcher
            request = shared.prepare(arrival.decode, batcher, self._started, self._call)
            self._trace = request.trace
            self._waiting = batcher.enqueue(request, self._done)
        self._call.give_up = self._give_up

    def _done(self, outcome: InferReply | BaseException) -> None:
        self._call.later(lambda: self._answer(outcome))

    def _answer(self, outcome: InferReply | BaseException) -> None:
        with self:
            # It holds `_done`, and so this; see `Call._end`.
            self._call.give_up = None
            del self._waiting
            if isinstance(outcome, BaseException):
                raise outcome
            assert self._batcher is not None
            if self._trace is not None:
                self._trace.cost = outcome.cost
            arrival = self._arrival
            self._call.respond(
                wire.serialise(outcome, arrival.head.outputs, self._batcher.servable, id=arrival.id)
            )
            self._report("OK", "")

    def _give_up(self) -> None:
        if self._batcher is not None and self._batcher.withdraw(self._waiting):
            late = self._call.time_remaining() == 0
            code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            self._report(code.name, ExpiredError.reason if late else "cancelled")
            self._call.refuse(code, "nobody waits")

    def _report(self, code: str, reason: str) -> None:
        if self._batcher is not None:
            servable, seconds = self._batcher.servable, self._shared.clock() - self._started
            self._shared.observer.request_finished(servable.name, servable.version, code, seconds, reason)
            if self._trace is not None and self._shared.traced is not None:
                self._shared.traced(servable.name, servable.version, code, seconds, self._trace)

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[True]:
        if error is not None:
            code = code_of(error)
            self._report(code.name, reason_of(error))
            arrival = self._arrival
            log_failure(error, self._call.invocation_metadata(), arrival.head.message, id=arrival.id)
            self._call.refuse(code, text_of(error), advice_of(error))
        return True
