"""Requests that wait for a batch: a lane for each kind, and which of them run together next."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from sidecar.types import InferReply, InferRequest

Kind = tuple[Any, ...]
"""Datatype and trailing shape of every input, or the bucket they are padded to. Only one kind can share a batch."""

Done = Callable[[InferReply | BaseException], None]
"""Gets the reply to a request, or why there is none, on the thread that the model runs on. Must be quick."""


class Waiting:
    """A request from the moment it is queued until `done` is called, or `Batcher.withdraw` says that it will not be."""

    __slots__ = ("_claim", "bytes", "done", "kind", "request", "since")

    def __init__(self, request: InferRequest, done: Done, since: float) -> None:
        self.request = request
        self.done = done
        self.since = since
        # What is padded has one length, and all its other sizes are the model's.
        self.kind: Kind = (
            (request.bucket,)
            if request.bucket
            else tuple([(tensor.datatype, tensor.array.shape[1:]) for tensor in request.inputs.values()])
        )
        # Strings lie outside of their array, and ids and parameters beside all arrays.
        arrays = sum([tensor.array.nbytes for tensor in request.inputs.values()])
        self.bytes = max(arrays, request.message_bytes)
        self._claim = threading.Lock()

    @property
    def turn(self) -> tuple[int, float]:
        return self.request.priority, self.since

    @property
    def settled(self) -> bool:
        return self._claim.locked()

    def claim(self) -> bool:
        """True for the first caller only, who says what becomes of it."""
        return self._claim.acquire(blocking=False)

    def settle(self, outcome: InferReply | BaseException) -> None:
        if self.claim():
            self.done(outcome)


class _Lane(deque[Waiting]):
    """Waiting requests of one kind, the most urgent and then the oldest first, and the sum of their rows."""

    rows = 0


class Lanes:
    """Not safe between threads: its owner has the lock.

    requests, rows, bytes: of all that waits. soonest: no deadline of what waits is before it.
    """

    def __init__(self) -> None:
        self.requests = self.rows = self.bytes = 0
        self.soonest = math.inf
        self._lanes: dict[Kind, _Lane] = {}

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def add(self, waiting: Waiting) -> int:
        """The rows of its kind that wait now."""
        lane = self._lanes.get(waiting.kind)
        if lane is None:
            lane = self._lanes[waiting.kind] = _Lane()
        _queue(lane, waiting)
        deadline = waiting.request.deadline
        if deadline is not None and deadline < self.soonest:
            self.soonest = deadline
        lane.rows += waiting.request.rows
        self.requests += 1
        self.rows += waiting.request.rows
        self.bytes += waiting.bytes
        return lane.rows

    def remove(self, waiting: Waiting) -> bool:
        """False where it waits no longer."""
        lane = self._lanes.get(waiting.kind)
        if lane is None or waiting not in lane:
            return False
        lane.remove(waiting)
        self._left(lane, waiting)
        return True

    def fullest(self) -> int:
        """Rows of the kind of which most wait."""
        return max([lane.rows for lane in self._lanes.values()], default=0)

    def choose(self, now: float, max_rows: int, preferred: list[int]) -> tuple[list[Waiting], list[Waiting]]:
        """The next batch, from the lane whose head comes first as many as fit, and those found to have expired.

        preferred: sizes that it is cut to, where as much waits, the largest that can be.
        """
        lane = min(self._lanes.values(), key=lambda lane: lane[0].turn)
        batch: list[Waiting] = []
        expired: list[Waiting] = []
        room = max((rows for rows in preferred if rows <= lane.rows), default=max_rows)
        while lane and (lane[0].request.rows <= room or not batch):
            waiting = lane.popleft()
            self._left(lane, waiting)
            if waiting.settled:
                continue
            deadline = waiting.request.deadline
            if deadline is not None and deadline <= now:
                expired.append(waiting)
                continue
            batch.append(waiting)
            room -= waiting.request.rows
        return batch, expired

    def shed(self, now: float, row_seconds: float) -> list[Waiting]:
        """Take out those that cannot run before their deadlines, because these have passed or what is ahead of them in
        their lane takes too long at `row_seconds` for each row.
        """
        hopeless: list[Waiting] = []
        self.soonest = math.inf
        for lane in list(self._lanes.values()):
            kept: list[Waiting] = []
            free = now
            for waiting in lane:
                deadline = waiting.request.deadline
                if deadline is not None and (deadline <= now or deadline < free):
                    hopeless.append(waiting)
                    continue
                kept.append(waiting)
                free += waiting.request.rows * row_seconds
                if deadline is not None and deadline < self.soonest:
                    self.soonest = deadline
            if len(kept) < len(lane):
                gone = hopeless[len(kept) - len(lane) :]
                lane.clear()
                lane.extend(kept)
                for waiting in gone:
                    self._left(lane, waiting)
        return hopeless

    def _left(self, lane: _Lane, waiting: Waiting) -> None:
        lane.rows -= waiting.request.rows
        self.requests -= 1
        self.rows -= waiting.request.rows
        self.bytes -= waiting.bytes
        if not lane:
            self._lanes.pop(waiting.kind, None)


def _queue(lane: _Lane, waiting: Waiting) -> None:
    place = len(lane)
    while place and lane[place - 1].request.priority > waiting.request.priority:
        place -= 1
    if place == len(lane):
        lane.append(waiting)
    else:
        lane.insert(place, waiting)
