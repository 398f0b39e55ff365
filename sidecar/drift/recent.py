"""What the requests of a window looked like, at all taps at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sidecar.drift.scores import FEATURES, features, stack_rows
from sidecar.drift.weighted import Array, Weighted
from sidecar.sketch import Reading
from sidecar.types import Tap


@dataclass(frozen=True, slots=True, eq=False)
class Described:
    """values: float64[taps, n, statistics], NaN where a request did not reach a tap. weights: float64[n]."""

    values: Array
    weights: Array

    def __len__(self) -> int:
        return len(self.weights)

    def at(self, index: int) -> Weighted:
        """At one tap."""
        return Weighted(self.values[index], self.weights)


class Recent:
    """Describes the requests of a window by `features`, those of each reading only once while it is in there."""

    def __init__(self, taps: Sequence[Tap]) -> None:
        self._taps = tuple(taps)
        self._known: dict[Reading, Array] = {}

    def described(self, readings: Sequence[Reading]) -> Described:
        """readings: of the window, oldest first."""
        known = self._known
        self._known = {
            one: known[one] if one in known else features(stack_rows(one.rows, self._taps))
            for one in readings
        }
        none = np.empty((len(self._taps), 0, len(FEATURES)))
        return Described(
            np.concatenate([none, *self._known.values()], axis=1),
            np.concatenate([np.empty(0), *[one.weights for one in readings]]),
        )
