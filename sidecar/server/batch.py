"""Requests that run together, from the queue to their replies."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from sidecar.errors import Caught, ExpiredError, InferenceError
from sidecar.server.lanes import Waiting
from sidecar.types import Cost, InferReply, Servable

# Of what the model cannot do clients can send as much as they like, so the log limits it.
_log = logging.getLogger("sidecar.model")


class Owner(Protocol):
    """What of `Batcher` a batch needs."""

    servable: Servable

    def taken(self) -> None: ...

    def report(self, waiting: Sequence[Waiting], started: float, cost: Cost | None) -> None: ...

    def finished(self) -> None: ...


class Batch:
    """See `types.Batch`."""

    def __init__(
        self, batcher: Owner, waiting: Sequence[Waiting], expired: Sequence[Waiting], started: float
    ) -> None:
        self.requests = [one.request for one in waiting]
        for request in self.requests:
            if request.trace is not None:
                request.trace.began = started
        self._batcher = batcher
        self._waiting = waiting
        self._expired = expired
        self._started = started
        self._over = False

    def begin(self) -> None:
        """Tell those whose deadlines have passed. Nobody else may be left, and then it is over."""
        self._batcher.taken()
        for late in self._expired:
            late.settle(expired())
        if not self._waiting:
            self._end()

    def answer(self, replies: Sequence[InferReply | Exception]) -> None:
        """Give each request its reply; fails where there are not as many."""
        if len(replies) == len(self._waiting):
            self._settle(replies, _cost(replies))
        else:
            self.fail(RuntimeError(f"{len(replies)} replies to {len(self._waiting)} requests"))

    def fail(self, error: BaseException) -> None:
        """Tell the log why, and the clients that the model failed."""
        servable = self._batcher.servable
        _log.error("model %s version %s failed", servable.name, servable.version, exc_info=error)
        self._settle([self._failure()] * len(self._waiting), None)

    def abort(self) -> None:
        """See `types.Batch`."""
        for late in self._expired:
            with Caught():
                late.settle(expired())
        for waiting in self._waiting:
            with Caught():
                waiting.settle(self._failure())
        self._end()

    def _settle(self, outcomes: Sequence[InferReply | Exception], cost: Cost | None) -> None:
        # Counted first, so that a client which has its reply finds it so.
        self._batcher.report(self._waiting, self._started, cost)
        for waiting, outcome in zip(self._waiting, outcomes, strict=True):
            waiting.settle(outcome)
        self._end()

    def _failure(self) -> InferenceError:
        return InferenceError(f"model {self._batcher.servable.name!r} failed")

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._batcher.finished()


def expired() -> ExpiredError:
    return ExpiredError("the deadline passed while the request waited")


def _cost(replies: Sequence[InferReply | Exception]) -> Cost | None:
    """Of the one run, or of those of each request where together they found no memory; None where none went well."""
    costs = list({id(one.cost): one.cost for one in replies if isinstance(one, InferReply)}.values())
    if len(costs) < 2:
        return costs[0] if costs else None
    return Cost(*map(sum, zip(*costs, strict=True)))
