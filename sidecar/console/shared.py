"""An answer that takes long to make and is wanted by many at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sidecar.console.budget import Budget
from sidecar.errors import NotReadyError, OverloadedError
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

    Nobody waits for longer than `patience`, nor is one made while the budget is spent: the last answer is given then,
    however old it is. clock: seconds that only go forward.
    """

    def __init__(
        self,
        make: Callable[[], bytes],
        keep_seconds: float,
        budget: Budget,
        clock: Clock,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._make, self._budget, self._clock, self._patience = make, budget, clock, patience
        self._keep = min(keep_seconds, LONGEST_SECONDS)
        self._last: Made | None = None
        self._making: asyncio.Task[Made] | None = None

    async def answer(self) -> tuple[bytes, int]:
        """The answer and its age in whole seconds.

        Raises NotReadyError where none has ever been made in time, OverloadedError where the budget allows for none,
        and what `make` raises.
        """
        last = self._last
        if (last is None or self._clock() - last.made >= self._keep) and self._begun():
            assert self._making
            done, _ = await asyncio.wait({self._making}, timeout=self._patience)
            last = done.pop().result() if done else self._last
        if last is None:
            raise NotReadyError(f"not made within {self._patience:g} s; try again")
        return last.body, math.floor(self._clock() - last.made)

    def _begun(self) -> bool:
        """Whether one is being made now."""
        if self._making is None:
            try:
                self._budget.admit()
            except OverloadedError:
                if self._last is None:
                    raise
                return False
            self._making = asyncio.create_task(self._renew())
        return True

    async def _renew(self) -> Made:
        try:
            made = self._clock()
            self._last = Made(made, await asyncio.to_thread(partial(self._budget.charged, self._make)))
            return self._last
        finally:
            self._making = None
