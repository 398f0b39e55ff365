"""How many of the newest things differ."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

NEWEST = 512


class Distinct:
    """The newest 512 of 64-bit hashes. A fixed number, because of more things that recur fewer are distinct."""

    def __init__(self) -> None:
        self._hashes = np.empty(0, dtype=np.uint64)

    def update(self, hashes: npt.NDArray[np.uint64]) -> None:
        """hashes: uint64[n], oldest first."""
        self._hashes = np.concatenate([self._hashes, hashes])[-NEWEST:]

    @property
    def share(self) -> float:
        """Different ones as a share of all, NaN before there are 512."""
        return len(np.unique(self._hashes)) / NEWEST if len(self._hashes) == NEWEST else math.nan


def mixed(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """A hash of each row of int64[n, columns]: SplitMix64 (Steele, Lea, Flood 2014), fed column by column."""
    hashes = np.zeros(len(keys), dtype=np.uint64)
    for column in keys.T:
        hashes = (
            hashes * np.uint64(0x9E3779B97F4A7C15) + column.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        )
        hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        hashes ^= hashes >> np.uint64(31)
    return hashes
