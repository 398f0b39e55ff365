"""Dynamic batching: requests that arrive together run together.

A request that finds the model idle waits up to `max_delay_ms` for company. Requests that arrive while a
batch runs have waited already, so the next batch starts with them as soon as that one is done.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from sidecar.errors import ExpiredError, InferenceError, NotReadyError, OverloadedError
from sidecar.settings import BatchingSettings
from sidecar.types import Clock, InferReply, InferRequest, Servable, ServingObserver

logger = logging.getLogger("sidecar.server")

Kind = tuple[tuple[str, tuple[int, ...]], ...]
"""Datatype and trailing shape of every input. Only requests of one kind can share a batch."""


@dataclass(slots=True, eq=False)
class _Waiting:
    request: InferRequest
    reply: asyncio.Future[InferReply]
    since: float

    @property
    def turn(self) -> tuple[int, float]:
        return self.request.priority, self.since


class _Lane(deque[_Waiting]):
    """Waiting requests of one kind, the most urgent and then the oldest first, and the sum of their rows."""

    rows = 0


class Batcher:
    """Queue and batches of one model version. Lives on one event loop.

    servable.max_rows bounds a batch; 0 makes every request run alone.
    clock: monotonic seconds, on the same scale as `InferRequest.deadline`.
    """

    def __init__(
        self,
        servable: Servable,
        settings: BatchingSettings,
        observer: ServingObserver,
        clock: Clock = time.monotonic,
    ) -> None:
        self.servable = servable
        self.priority_levels = settings.priority_levels
        self._max_rows = servable.max_rows or 1
        self._max_delay = settings.max_delay_ms / 1000
        self._max_waiting = settings.queue_requests
        self._observer = observer
        self._clock = clock
        self._lanes: dict[Kind, _Lane] = {}
        self._waiting = 0
        self._full = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(self, request: InferRequest) -> InferReply:
        """Wait for the reply to `request`.

        Cancelling the caller takes a request that still waits out of the queue.
        Raises OverloadedError (queue full), ExpiredError (deadline passed before it ran), InferenceError
        (the model raised) or NotReadyError (closed).
        """
        if self._closed:
            raise NotReadyError(f"model {self.servable.name!r} is stopping, try another server")
        if self._waiting >= self._max_waiting:
            raise OverloadedError(
                f"{self._waiting} requests wait for model {self.servable.name!r}, the most allowed; try later"
            )
        kind = tuple((tensor.datatype, tensor.array.shape[1:]) for tensor in request.inputs.values())
        waiting = _Waiting(request, asyncio.get_running_loop().create_future(), self._clock())
        lane = self._lanes.get(kind)
        if lane is None:
            lane = self._lanes[kind] = _Lane()
        _queue(lane, waiting)
        lane.rows += request.rows
        self._waiting += 1
        self._report_queue()
        if lane.rows >= self._max_rows:
            self._full.set()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work(), name=f"batches of {self.servable.name}")
        try:
            return await waiting.reply
        except asyncio.CancelledError:
            if waiting in lane:
                lane.remove(waiting)
                self._left(kind, lane, waiting)
                self._report_queue()
            raise

    async def close(self) -> None:
        """Take no more requests, answer those that wait."""
        self._closed = True
        self._full.set()
        if self._worker is not None:
            await self._worker

    async def _work(self) -> None:
        await self._company()
        while self._lanes:
            if batch := self._take():
                await self._run(batch)
        self._full.clear()

    async def _company(self) -> None:
        if self._full.is_set() or not self._max_delay:
            return
        timer = asyncio.get_running_loop().call_later(self._max_delay, self._full.set)
        await self._full.wait()
        timer.cancel()

    def _take(self) -> list[_Waiting]:
        """The next batch: from the lane whose head comes first, as many as fit, without those that expired."""
        kind, lane = min(self._lanes.items(), key=lambda item: item[1][0].turn)
        now = self._clock()
        batch: list[_Waiting] = []
        room = self._max_rows
        while lane and (lane[0].request.rows <= room or not batch):
            waiting = lane.popleft()
            self._left(kind, lane, waiting)
            if waiting.reply.done():
                continue
            deadline = waiting.request.deadline
            if deadline is not None and deadline <= now:
                waiting.reply.set_exception(ExpiredError("the deadline passed while the request waited"))
                continue
            batch.append(waiting)
            room -= waiting.request.rows
        self._report_queue()
        return batch

    async def _run(self, batch: Sequence[_Waiting]) -> None:
        requests = [waiting.request for waiting in batch]
        started = self._clock()
        servable = self.servable
        with _Failure() as failure:
            for waiting, reply in zip(batch, await self._execute(requests), strict=True):
                if not waiting.reply.done():
                    waiting.reply.set_result(reply)
        if failure.error is not None:
            logger.error(
                "model %s version %s failed", servable.name, servable.version, exc_info=failure.error
            )
            for waiting in batch:
                if not waiting.reply.done():
                    waiting.reply.set_exception(InferenceError(f"model {servable.name!r} failed"))
        rows = sum(request.rows for request in requests)
        queued = [started - waiting.since for waiting in batch]
        took = self._clock() - started
        failed = failure.error is not None
        self._observer.batch_finished(servable.name, servable.version, rows, queued, took, failed)

    async def _execute(self, requests: Sequence[InferRequest]) -> list[InferReply]:
        replies = await self.servable.execute(requests)
        if len(replies) != len(requests):
            raise RuntimeError(f"{len(replies)} replies to {len(requests)} requests")
        return replies

    def _left(self, kind: Kind, lane: _Lane, waiting: _Waiting) -> None:
        lane.rows -= waiting.request.rows
        self._waiting -= 1
        if not lane:
            del self._lanes[kind]

    def _report_queue(self) -> None:
        self._observer.queue_length(self.servable.name, self.servable.version, self._waiting)


def _queue(lane: _Lane, waiting: _Waiting) -> None:
    place = len(lane)
    while place and lane[place - 1].request.priority > waiting.request.priority:
        place -= 1
    if place == len(lane):
        lane.append(waiting)
    else:
        lane.insert(place, waiting)


class _Failure:
    """`with _Failure() as failure:` keeps what is raised inside, so that no kind of it can end the worker.

    error: None while nothing was. A cancellation of the worker itself goes through.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> _Failure:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.error = error
        if isinstance(error, asyncio.CancelledError):
            worker = asyncio.current_task()
            return worker is not None and not worker.cancelling()
        return isinstance(error, Exception)
