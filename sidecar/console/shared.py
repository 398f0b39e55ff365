"""An answer that takes long to make and is wanted by many at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

from sidecar.errors import NotReadyError
from sidecar.types import Clock

LONGEST_SECONDS = 1.0
"""No answer is given out again for longer, however rarely sketches are taken off the device."""

PATIENCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Made:
    """made: `clock` seconds when its making began."""

    made: float
    body: bytes


class Shared:
    """Made on a thread, by one asker for all who ask meanwhile and for `keep_seconds`.

    Nobody waits for longer than two seconds: they are given the last answer then, however old it is.
    clock: seconds that only go forward.
    """

    def __init__(
        self, make: Callable[[], bytes], keep_seconds: float, clock: Clock, patience: float = PATIENCE_SECONDS
    ) -> None:
        self._make, self._clock, self._patience = make, clock, patience
        self._keep = min(keep_seconds, LONGEST_SECONDS)
        self._last: Made | None = None
        self._making: asyncio.Task[Made] | None = None

    async def answer(self) -> tuple[bytes, int]:
        """The answer and its age in whole seconds. Raises NotReadyError where none has ever been made in time."""
        last = self._last
        if last is None or self._clock() - last.made >= self._keep:
            if self._making is None:
                self._making = asyncio.create_task(self._renew())
            done, _ = await asyncio.wait({self._making}, timeout=self._patience)
            last = done.pop().result() if done else self._last
        if last is None:
            raise NotReadyError(f"not made within {self._patience:g} s; try again")
        return last.body, math.floor(self._clock() - last.made)

    async def _renew(self) -> Made:
        try:
            made = self._clock()
            self._last = Made(made, await asyncio.to_thread(self._make))
            return self._last
        finally:
            self._making = None
