"""Replies of a decoupled model on their way from its thread to the event loop, a few at a time."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

from sidecar.errors import OverloadedError
from sidecar.types import InferReply

ROOM = 16
"""Replies to one request that may wait to be written. The model makes the next when one is."""

PATIENCE_SECONDS = 10.0
"""How long the model waits for room, before a client that does not read loses its request to those who wait."""


class Outlet:
    """A `types.Outlet`, made on the event loop that takes replies out of it. patience: seconds, see above."""

    def __init__(self, patience: float = PATIENCE_SECONDS) -> None:
        self._loop = asyncio.get_running_loop()
        self._patience = patience
        self._arrived: asyncio.Queue[tuple[InferReply | BaseException, bool]] = asyncio.Queue()
        self._room = threading.Semaphore(ROOM)
        self._claim = threading.Lock()
        self._closed = False

    def claim(self) -> bool:
        return self._claim.acquire(blocking=False)

    def send(self, reply: InferReply) -> bool:
        if not self._closed and not self._room.acquire(timeout=self._patience):
            self._closed = True
            text = f"the replies were not read for {self._patience:g} s, and others wait"
            self.end(OverloadedError(text, reason="other"))
        if self._closed:
            return False
        self._pass(reply, more=True)
        return True

    def end(self, outcome: InferReply | BaseException) -> None:
        """The last reply, or why there is none. Called on any thread."""
        self._pass(outcome, more=False)

    def _pass(self, outcome: InferReply | BaseException, *, more: bool) -> None:
        # A loop that was closed has nobody left who waits.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, (outcome, more))

    async def next(self) -> tuple[InferReply, bool]:
        """The next reply, and whether more follow. Raises what `end` was given in place of the last."""
        outcome, more = await self._arrived.get()
        self._room.release()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome, more

    def close(self) -> None:
        """Nobody wants more: the model is told when it has made the next, or at once where it waits for room."""
        self._closed = True
        self._room.release()
