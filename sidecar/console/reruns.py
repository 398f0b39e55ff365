"""Kept inputs, run again for the one neuron that somebody looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from sidecar.errors import ModelError
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

    Of the neuron that was asked for last what was found is kept as long as the input is, so that only new inputs have
    to be run. Used by one thread. clock: seconds that only go forward. wait: sleeps so many seconds, or says that
    nobody waits any more.
    """

    def __init__(self, share: float, clock: Clock, wait: Callable[[float], bool]) -> None:
        self._rest = max(1 / share - 1, 0.0)
        self._clock, self._wait = clock, wait
        self._about: tuple[Tap, int] | None = None
        self._found: WeakKeyDictionary[KeptInput, _Found | _Failed] = WeakKeyDictionary()

    def of(self, replay: Replay, tap: Tap, channel: int) -> Sequence[Rerun]:
        """As many of the inputs that are kept as there was time for, less those that failed.

        Raises ModelError where all of them failed.
        """
        kept = replay.kept()
        if (tap, channel) != self._about:
            self._about = tap, channel
            self._found.clear()
        began = self._clock()
        for one in kept:
            if one in self._found:
                continue
            started = self._clock()
            if started - began >= MOST_SECONDS:
                break
            try:
                self._found[one] = _found(replay, one, tap, channel)
            finally:
                left = self._wait((self._clock() - started) * self._rest)
            if left:
                break
        known = [(one, self._found[one]) for one in kept if one in self._found]
        failed = [result.reason for _, result in known if isinstance(result, _Failed)]
        if kept and len(failed) == len(kept):
            raise ModelError(failed[-1])
        return [
            Rerun(one, result.values, result.together) for one, result in known if isinstance(result, _Found)
        ]


@dataclass(frozen=True, slots=True)
class _Found:
    """A `Rerun` that does not hold its input."""

    values: npt.NDArray[np.float32]
    together: Together


@dataclass(frozen=True, slots=True)
class _Failed:
    """reason: as text, because an error holds the frames that it passed, and they the input."""

    reason: str


def _found(replay: Replay, one: KeptInput, tap: Tap, channel: int) -> _Found | _Failed:
    try:
        x = replay.activation(tap, one)
    except ModelError as error:
        return _Failed(str(error))
    return _Found(x[..., channel].copy(), Together.of_input(x, channel, replay.near_zero))
