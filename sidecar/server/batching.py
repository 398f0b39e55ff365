"""Dynamic batching: requests that arrive together run together.

A request that finds the model idle waits up to `max_delay_ms` for company. Requests that arrive while a
batch runs have waited already, so the next batch starts with them as soon as that one is done.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from sidecar import types
from sidecar.errors import (
    Caught,
    NotReadyError,
    OverloadedError,
)
from sidecar.server.batch import Batch, expired
from sidecar.server.lanes import Done, Lanes, Waiting
from sidecar.settings import BatchingSettings
from sidecar.types import Clock, Cost, InferReply, InferRequest, Servable, ServingObserver

logger = logging.getLogger("sidecar.server")

RESTART_SECONDS = 1.0
"""A model whose thread failed in a way that nobody foresaw is not ready for so long."""

SHED_SECONDS = 0.01
"""A full queue is searched for requests that are too late at most this often."""

FAILURES = 3
"""A version of which so many batches failed in a row is trusted no more than it must be."""

TRIAL_SECONDS = 60.0
"""How often it is tried all the same: what made it fail may have been the requests."""


class Batcher:
    """Queue of one model version, filled on any thread and emptied by the model's own: a `types.Batches`.

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
        self._preferred = sorted(rows for rows in settings.preferred_rows if rows <= self._max_rows)
        self._company = self._preferred[0] if self._preferred else self._max_rows
        self._max_delay = settings.max_delay_ms / 1000
        self._max_waiting = settings.queue_requests
        self._max_bytes = settings.queue_bytes
        self._observer = observer
        self._clock = clock
        self._changed = threading.Condition(threading.Lock())
        self._lanes = Lanes()
        self._running = 0
        self._row_seconds = 0.0  # a batch's time over its rows, smoothed; 0 until one has run
        self._enough = 0  # rows of one kind that wake the model's thread; 0 while it does not wait
        self._idle = True  # nothing has run yet, so that the first request waits for company too
        self._started = self._closed = False
        self._drained: list[Callable[[], None]] = []
        self._turn, self._reporting = threading.Lock(), threading.Lock()
        self._shed_next = -math.inf  # when all that waits may be looked at again
        self._failures = 0  # batches since the last one in which a request went well
        self._trial = 0.0  # when it may be tried again

    def enqueue(self, request: InferRequest, done: Done) -> Waiting:
        """Have `done` called with what becomes of `request`. May be called on any thread.

        `done` may get an ExpiredError (the deadline passed before it ran) or an InferenceError (the model raised).
        Raises OverloadedError (queue full) or NotReadyError (closed), and then does not call it.
        """
        waiting = Waiting(request, done, self._clock())
        if request.trace is not None:
            request.trace.queued = waiting.since
        with self._changed:
            if self._closed:
                raise NotReadyError(f"model {self.servable.name!r} is stopping, try another server")
            self._admit(waiting)
            # First, because where no thread can be started nobody shall wait for one.
            if not self._started:
                self.servable.start(self)
                self._started = True
            rows = self._lanes.add(waiting)
            self._report_queue()
            if 0 < self._enough <= rows:
                self._changed.notify()
        return waiting

    def _admit(self, waiting: Waiting) -> None:
        """Refuse what finds no room, and what the queue before it leaves no time for."""
        if full := self._full(waiting):
            self._shed(waiting.since)
            if full := self._full(waiting):
                raise full
        deadline = waiting.request.deadline
        # With priorities what waits need not be ahead of it, and then nobody can tell.
        if deadline is not None and not self.priority_levels:
            ahead = self._ahead()
            if waiting.since < deadline < waiting.since + ahead:
                raise self._too_slow(ahead)

    def _ahead(self) -> float:
        """Seconds until all that waits has run."""
        return self._lanes.rows * self._row_seconds / self.servable.instances

    def _full(self, waiting: Waiting) -> OverloadedError | None:
        """Why there is no room; None where there is."""
        lanes, name = self._lanes, self.servable.name
        if lanes.requests >= self._max_waiting:
            text = f"{lanes.requests} requests wait for model {name!r}, the most allowed; try later"
            return OverloadedError(text, self._ahead())
        if lanes.bytes + waiting.bytes > self._max_bytes and lanes:
            text = f"{lanes.bytes} bytes wait for model {name!r}, {self._max_bytes} are allowed; try later"
            return OverloadedError(text, self._ahead(), "memory")
        return None

    def _shed(self, now: float) -> None:
        """Make room for whoever comes: those who cannot run before their deadlines shall not wait for these."""
        ahead = self._ahead()
        # To look at all that waits takes as long as a request, so not for each that comes.
        if now < self._shed_next or self._lanes.soonest > now + ahead:
            return
        self._shed_next = now + SHED_SECONDS
        for one in self._lanes.shed(now, self._row_seconds / self.servable.instances):
            late = one.request.deadline is not None and one.request.deadline <= now
            with Caught():
                one.settle(expired() if late else self._too_slow(ahead))
        self._report_queue()

    def _too_slow(self, ahead: float) -> OverloadedError:
        return OverloadedError(
            f"what waits for model {self.servable.name!r} takes longer than the request's deadline allows",
            ahead,
            "expired",
        )

    def trusted(self) -> bool:
        """Whether to give it a request that another version could answer; may be asked by one thread at a time.

        No after FAILURES failed batches in a row, but once in TRIAL_SECONDS, until a request of one goes well.
        """
        if self._failures < FAILURES:
            return True
        now = self._clock()
        if now < self._trial:
            return False
        self._trial = now + TRIAL_SECONDS
        return True

    def withdraw(self, waiting: Waiting) -> bool:
        """True: its `done` will not be called, and if it still waits, it never runs. False: that came too late."""
        if not waiting.claim():
            return False
        with self._changed:
            if self._lanes.remove(waiting):
                self._report_queue()
                self._tell_if_drained()
        return True

    async def submit(self, request: InferRequest) -> InferReply:
        """Wait for the reply to `request` on an event loop; raises what `enqueue` raises and `done` gets.

        Cancelling the caller withdraws it.
        """
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[InferReply] = loop.create_future()

        def done(outcome: InferReply | BaseException) -> None:
            # A loop that was closed has nobody left who waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, reply, outcome)

        waiting = self.enqueue(request, done)
        try:
            return await reply
        except asyncio.CancelledError:
            self.withdraw(waiting)
            raise

    async def close(self) -> None:
        """Take no more requests, and wait until those that were taken are answered."""
        loop = asyncio.get_running_loop()
        drained: asyncio.Future[None] = loop.create_future()

        def tell() -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, drained, None)

        with self._changed:
            self._closed = True
            self._drained.append(tell)
            self._changed.notify_all()
            self._tell_if_drained()
        await drained

    def serve(self, run: Callable[[types.Batch], bool], first: types.Batch | None = None) -> None:
        """See `types.Batches`. An error that `run` did not handle, or one of the queue itself, costs its batch and a
        pause, during which the model is not ready.
        """
        batch, more = first, True
        del first
        while more:
            with Caught() as caught:
                if batch is None:
                    if (taken := self._next()) is None:
                        return
                    batch = taken
                    taken.begin()
                if batch.requests:
                    more = run(batch)
            if caught.error is not None:
                self._recover(batch, caught.error)
            batch = taken = None  # what it holds shall not live on while the thread waits

    def _recover(self, batch: types.Batch | None, error: BaseException) -> None:
        servable = self.servable
        with Caught():
            logger.critical("the thread of %s failed and starts again", servable.name, exc_info=error)
        servable.ready = False
        if batch is not None:
            batch.abort()
        with self._changed:
            # A queue that failed may fail again at once, and then its closing shall not end the pauses.
            self._changed.wait_for(lambda: self._closed and batch is not None, RESTART_SECONDS)
            servable.ready = not self._closed

    def _next(self) -> Batch | None:
        """The next batch for one of several threads: the others wait for their turn to wait for company."""
        with self._turn:
            return self._take()

    def _take(self) -> Batch | None:
        """Wait for the next batch; None when closed and empty."""
        while True:
            with self._changed:
                if self._idle or not self._lanes:
                    self._idle = False
                    self._wait_for(1, None)
                    if self._max_delay:
                        self._wait_for(self._company, self._max_delay)
                if not self._lanes:
                    if self._closed:
                        return None
                    continue
                now = self._clock()
                batch = Batch(self, *self._lanes.choose(now, self._max_rows, self._preferred), now)
                self._running += 1
                return batch

    def report(self, waiting: Sequence[Waiting], started: float, cost: Cost | None) -> None:
        """A batch has run, or failed, and then cost is None."""
        rows = sum([one.request.rows for one in waiting])
        queued = [started - one.since for one in waiting]
        name, version = self.servable.name, self.servable.version
        with self._reporting:
            if cost is None:
                self._failures += 1
                self._trial = self._clock() + TRIAL_SECONDS
            else:
                self._failures = 0
                seconds = self._clock() - started
                usual = self._row_seconds or seconds / rows
                self._row_seconds = usual + 0.1 * (seconds / rows - usual)
            self._observer.batch_finished(name, version, rows, queued, cost)

    def taken(self) -> None:
        """Say how many wait now."""
        with self._changed:
            self._report_queue()

    def finished(self) -> None:
        """What was taken last has been answered."""
        with self._changed:
            self._running -= 1
            self._tell_if_drained()

    def _wait_for(self, rows: int, seconds: float | None) -> None:
        """Until so many rows of one kind wait, the batcher is closed, or the time is over."""
        self._enough = rows
        self._changed.wait_for(lambda: self._closed or self._lanes.fullest() >= rows, seconds)
        self._enough = 0

    def _tell_if_drained(self) -> None:
        if self._closed and not self._lanes and not self._running:
            while self._drained:
                self._drained.pop()()

    def _report_queue(self) -> None:
        self._observer.queue_length(self.servable.name, self.servable.version, self._lanes.requests)


def _resolve(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():
        return  # whoever waited gave up
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
