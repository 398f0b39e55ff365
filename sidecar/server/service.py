"""Inference, one request a call or many, and whether it is possible."""

# ruff: noqa: N802 - gRPC finds the methods by the protocol's own names.

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any

import grpc

from sidecar._pb import open_inference_pb2 as pb
from sidecar.errors import ExpiredError, InvalidInputError, NotReadyError, UnknownModelError, UnsupportedError
from sidecar.server import arrivals, codec, nonfinite, parameters, ragged
from sidecar.server.batching import Batcher
from sidecar.server.direct import Call, Caller, Decode, Inferences
from sidecar.server.memory import Regions, deliver
from sidecar.server.models import Models
from sidecar.server.outlet import Outlet
from sidecar.server.status import ErrorsAsStatus, code_of, reason_of
from sidecar.server.stream import Streams, Write
from sidecar.server.tracing import trace_of
from sidecar.types import Clock, InferReply, InferRequest, Servable, ServingObserver, Trace, Traced

Context = grpc.aio.ServicerContext[Any, Any]

# Ids need to differ, not to be secret, and a generator of our own asks the system once instead of each time.
_IDS = random.Random()


class InferenceService:
    """Answers for `models`, until `stopping` is set.

    leaving: it will be set soon, and who looks at readiness should go elsewhere.
    regions: shared memory that requests may name; None where there is none.
    traced: told of requests whose clients sent a trace; None where nobody wants to know.
    clock: monotonic seconds, the batchers' own. new_id: the id of a request that came without one.
    """

    def __init__(
        self,
        models: Models,
        observer: ServingObserver,
        regions: Regions | None = None,
        clock: Clock = time.monotonic,
        new_id: Callable[[], str] = lambda: f"{_IDS.getrandbits(128):032x}",
        traced: Traced | None = None,
    ) -> None:
        self._traced = traced
        self.leaving = self.stopping = False
        self.streams = Streams(self._infer, self._generate, self._is_decoupled)
        self._models = models
        self._observer = observer
        self._regions = regions
        self._clock = clock
        self._new_id = new_id
        self._inferences = Inferences(models, self._request, observer, clock, traced)

    @property
    def ready(self) -> bool:
        """Every model takes requests."""
        return not self.leaving and all(batcher.servable.ready for batcher in self._models)

    async def ServerLive(self, message: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, message: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self.ready)

    async def ModelReady(self, message: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        async with ErrorsAsStatus(context, message):
            servable = self._models.find(message.name, message.version).servable
        return pb.ModelReadyResponse(ready=servable.ready and not self.leaving)

    async def ModelInfer(self, message: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        async with ErrorsAsStatus(context, message):
            return await self._infer(message, context)

    async def ModelStreamInfer(self, messages: AsyncIterator[pb.ModelInferRequest], context: Context) -> None:
        async with ErrorsAsStatus(context):
            await self.streams.answer(messages, context)

    async def _infer(self, message: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        self._name(message)
        batcher = self._models.route(message, message.id)
        servable = batcher.servable
        with _Observed(self._observer, servable, context, self._clock, self._traced) as observed:
            placements = self._regions.bring(message) if self._regions else {}
            request = self._request(_decoder(message), batcher, observed.started, context)
            observed.trace = request.trace
            reply = await batcher.submit(request)
            if request.trace is not None:
                request.trace.cost = reply.cost
            response = await _encoded(reply, message, servable)
            if placements:
                deliver(placements, response)
            return response

    def _is_decoupled(self, message: pb.ModelInferRequest) -> bool:
        self._name(message)
        try:
            return self._models.route(message, message.id).servable.decoupled
        except UnknownModelError:
            return False  # whoever answers it will find the same

    async def _generate(self, message: pb.ModelInferRequest, context: Context, write: Write) -> None:
        batcher = self._models.route(message, message.id)
        servable = batcher.servable
        with _Observed(self._observer, servable, context, self._clock, self._traced) as observed:
            if self._regions and self._regions.bring(message):
                raise InvalidInputError(
                    "outputs of a decoupled model cannot lie in shared memory: each reply would be written over"
                )
            request = self._request(_decoder(message), batcher, observed.started, context, decoupled=True)
            empty_final = parameters.wants_empty_final(request)
            observed.trace = request.trace
            outlet = request.outlet = Outlet()
            waiting = batcher.enqueue(request, outlet.end)
            try:
                more = True
                while more:
                    reply, more = await outlet.next()
                    if reply.outputs:
                        await write(await _encoded(reply, message, servable), not more)
                if request.trace is not None:
                    request.trace.cost = reply.cost
                if empty_final and not reply.outputs:
                    await write(_empty(message, servable), True)
            finally:
                outlet.close()
                batcher.withdraw(waiting)

    def _check_ready(self, servable: Servable) -> None:
        if self.stopping or not servable.ready:
            raise NotReadyError(f"model {servable.name!r} takes no requests now, try again later")

    def _request(
        self, decode: Decode, batcher: Batcher, started: float, caller: Caller, decoupled: bool = False
    ) -> InferRequest:
        """What `decode` makes of a message that came at `started`. decoupled: it may get any number of replies."""
        self._check_ready(batcher.servable)
        if batcher.servable.decoupled is not decoupled:
            raise _wrong_number_of_replies(batcher.servable)
        remaining = caller.time_remaining()
        request = decode(batcher.servable, None if remaining is None else started + remaining)
        if self._traced is not None:
            request.trace = trace_of(caller.invocation_metadata() or ())
        nonfinite.examine(request, batcher.servable, self._observer)
        if batcher.servable.ragged is not None:
            ragged.measure(request, batcher.servable.ragged)
        if request.parameters or batcher.priority_levels:
            parameters.apply(request, started, batcher.priority_levels)
        return request

    def infer_directly(self, raw: bytes, call: Call) -> bool:
        """ModelInfer without the event loop. False where that cannot be: the reply takes more than a copy."""
        if self._regions is not None or (arrival := arrivals.read(raw)) is None or arrival.head.ranked:
            return False
        arrival.id = arrival.id or self._new_id()
        self._inferences.begin(arrival, call)
        return True

    def _name(self, message: pb.ModelInferRequest) -> None:
        """Give it an id, by which it is routed and sampled, where its client gave none."""
        if not message.id:
            message.id = self._new_id()


def _decoder(message: pb.ModelInferRequest) -> Decode:
    def decode(servable: Servable, deadline: float | None) -> InferRequest:
        return codec.decode(message, servable, id=message.id, deadline=deadline)

    return decode


async def _encoded(
    reply: InferReply, message: pb.ModelInferRequest, servable: Servable
) -> pb.ModelInferResponse:
    if codec.classes(message):
        # Ranking takes longer than copying: not on the loop that answers everybody.
        return await asyncio.to_thread(codec.encode, reply, message, servable, id=message.id)
    return codec.encode(reply, message, servable, id=message.id)


def _empty(message: pb.ModelInferRequest, servable: Servable) -> pb.ModelInferResponse:
    return pb.ModelInferResponse(id=message.id, model_name=servable.name, model_version=servable.version)


def _wrong_number_of_replies(servable: Servable) -> Exception:
    if servable.decoupled:
        return UnsupportedError(
            f"model {servable.name!r} is decoupled and may give any number of replies: ModelInfer takes exactly one, "
            "use ModelStreamInfer"
        )
    # It was when the request was read, and another version has taken its place.
    return NotReadyError(f"model {servable.name!r} is being swapped, try again")


class _Observed:
    """Reports one request, which started when it was entered, to the observer."""

    __slots__ = ("_clock", "_context", "_observer", "_servable", "_traced", "started", "trace")

    def __init__(
        self,
        observer: ServingObserver,
        servable: Servable,
        context: Context,
        clock: Clock,
        traced: Traced | None,
    ) -> None:
        self.trace: Trace | None = None
        self._traced = traced
        self._observer = observer
        self._servable = servable
        self._context = context
        self._clock = clock

    def __enter__(self) -> _Observed:
        self._observer.request_started(self._servable.name, self._servable.version)
        self.started = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code, reason = (grpc.StatusCode.OK, "") if error is None else (code_of(error), reason_of(error))
        # gRPC cancels the handler both when the client gives up and when its deadline passes.
        if isinstance(error, asyncio.CancelledError) and self._context.time_remaining() == 0:
            code, reason = grpc.StatusCode.DEADLINE_EXCEEDED, ExpiredError.reason
        seconds = self._clock() - self.started
        name, version = self._servable.name, self._servable.version
        self._observer.request_finished(name, version, code.name, seconds, reason)
        if self.trace is not None and self._traced is not None:
            self._traced(name, version, code.name, seconds, self.trace)
