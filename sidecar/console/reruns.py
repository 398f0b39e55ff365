"""Kept inputs, run again for the one neuron that somebody looks at."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidecar.sketch import Together
from sidecar.types import Clock, KeptInput, Replay, Tap

MOST_SECONDS = 3.0
"""For one question. What is not done by then is done for the next one, which the page asks after ten seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class Rerun:
    """What one input does. values: float32[rows, positions], of the channel."""

    kept: KeptInput
    values: npt.NDArray[np.float32]
    together: Together


class Reruns:
    """Runs one input after the other, and rests between them, so that it takes `share` of one core on average.

    Of the neuron that was asked for last what was found is kept, so that only new inputs have to be run. Used by one
    thread. clock: seconds that only go forward. wait: sleeps so many seconds.
    """

    def __init__(self, share: float, clock: Clock, wait: Callable[[float], object] = time.sleep) -> None:
        self._rest = max(1 / share - 1, 0.0)
        self._clock, self._wait = clock, wait
        self._about: tuple[Tap, int] | None = None
        self._found: dict[KeptInput, Rerun] = {}

    def of(self, replay: Replay, tap: Tap, channel: int) -> Sequence[Rerun]:
        """As many of the inputs that are kept as there was time for. Raises ModelError."""
        kept = replay.kept()
        same = (tap, channel) == self._about
        self._about = tap, channel
        self._found = {one: self._found[one] for one in kept if one in self._found} if same else {}
        began = self._clock()
        for one in kept:
            if one in self._found:
                continue
            started = self._clock()
            if started - began >= MOST_SECONDS:
                break
            x = replay.activation(tap, one)
            together = Together.of_input(x, channel, replay.near_zero)
            self._found[one] = Rerun(one, x[..., channel].copy(), together)
            self._wait((self._clock() - started) * self._rest)
        return list(self._found.values())
