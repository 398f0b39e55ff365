"""Histograms of seconds, native and classic at once, that cost a request one search."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from prometheus_client.samples import Exemplar, NativeHistogram

from sidecar.export.native import PER_OCTAVE, SCHEMA, sparse

_LOWEST, _HIGHEST = -20 * PER_OCTAVE, 10 * PER_OCTAVE
"""Buckets from the zero threshold, a microsecond, to 1,024 s. What is above counts into the next."""


class _Cells:
    """The edges of native and of classic buckets together: between two of them a value is in one bucket of each.

    bounds: their upper edges. native: number of the native bucket of each cell but the first, which is the zero
    bucket. ends: of each classic bound, the number of cells up to it.
    """

    def __init__(self, classic: Sequence[float]) -> None:
        edges = {2.0 ** (i / PER_OCTAVE) for i in range(_LOWEST, _HIGHEST + 1)}
        self.bounds = sorted(edges.union(classic))
        lowest = self.bounds.index(2.0 ** (_LOWEST / PER_OCTAVE))
        numbers = np.cumsum([bound in edges for bound in self.bounds])
        # A classic bound within a bucket ends a cell before the bucket does.
        self.native = np.array(
            [_LOWEST + n - (bound in edges) for n, bound in zip(numbers, self.bounds, strict=True)]
        )
        self.zeros = lowest + 1
        self.ends = [self.bounds.index(bound) + 1 for bound in classic]


@cache
def _cells(classic: tuple[float, ...]) -> _Cells:
    return _Cells(classic)


class Histogram:
    """Counts of values in seconds and their sum. classic: bounds of the classic buckets, rising.

    One thread observes; another may read at any time, and finds counts that agree with each other.
    exemplars: the last of each classic bucket, by its place.
    """

    __slots__ = ("_bounds", "_classic", "_counts", "exemplars", "sum")

    def __init__(self, classic: tuple[float, ...]) -> None:
        self._classic = classic
        self._bounds = _cells(classic).bounds
        self._counts = [0] * (len(self._bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def remember(self, value: float, labels: Mapping[str, str], at: float) -> None:
        """Keep an exemplar for a value that was observed. at: seconds since the epoch."""
        self.exemplars[bisect_left(self._classic, value)] = Exemplar(dict(labels), value, at)

    def read(self) -> tuple[list[int], NativeHistogram]:
        """Cumulative counts at the classic bounds and at +Inf, and the native histogram of the same values."""
        cells = _cells(self._classic)
        counts: npt.NDArray[np.int64] = np.array(self._counts.copy(), dtype=np.int64)
        cumulative = np.cumsum(counts)
        total = int(cumulative[-1])
        classic = [int(cumulative[end - 1]) for end in cells.ends]
        first = _LOWEST + 1
        numbers = np.append(cells.native, _HIGHEST + 1)[cells.zeros :]
        by_bucket = np.zeros(_HIGHEST + 2 - first, dtype=np.int64)
        np.add.at(by_bucket, numbers - first, counts[cells.zeros :])
        spans, deltas = sparse(first, by_bucket)
        zeros = int(cumulative[cells.zeros - 1])
        threshold = 2.0 ** (_LOWEST / PER_OCTAVE)
        return [*classic, total], NativeHistogram(
            total, self.sum, SCHEMA, threshold, zeros, spans, [], deltas, []
        )
