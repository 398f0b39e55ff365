"""Effect sizes that people read: how large is the drift, not whether there is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidecar.sketch import TapSketch

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

CELLS = 20
_ZERO_CELL = 2048
_LEAST_SIGMA = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """About twenty cells of equal mass in the reference, over the cells of `Histogram.signed`.

    group: int64[4097], the cell that each belongs to. Zeros are a cell of their own where they carry at
    least half the mass of one; otherwise they share their neighbours'.
    """

    group: Integers
    number: int

    @classmethod
    def equal_mass(cls, signed: Integers) -> Cells:
        total = max(int(signed.sum()), 1)
        middle = np.cumsum(signed) - signed / 2
        group = np.minimum((CELLS * middle / total).astype(np.int64), CELLS - 1)
        if 2 * CELLS * int(signed[_ZERO_CELL]) >= total:
            side = np.sign(np.arange(len(signed)) - _ZERO_CELL)
            group = 3 * group + side
        labels, group = np.unique(group, return_inverse=True)
        return cls(group, len(labels))

    def shares(self, signed: Integers) -> Array:
        """Share of the values in each cell, half a value added to each so that none is empty."""
        counts = np.bincount(self.group, weights=signed, minlength=self.number) + 0.5
        shares: Array = counts / counts.sum()
        return shares


def population_stability(p: Array, q: Array) -> float:
    """PSI of two vectors of shares: sum of (p - q) ln(p / q), in nats; Lewis 1994."""
    return float(np.sum((p - q) * np.log(p / q)))


def jensen_shannon(p: Array, q: Array) -> float:
    """Jensen-Shannon divergence in bits, 0 (equal) to 1 (disjoint); Lin 1991, eq. 3.2."""
    middle = (p + q) / 2
    return float(np.sum(p * np.log2(p / middle) + q * np.log2(q / middle)) / 2)


@dataclass(frozen=True, slots=True)
class NoDriftScale:
    """What PSI and JS average without drift, times the number of requests.

    Values inside a request depend on each other, so the textbook's (cells - 1)(1/n + 1/m) over values
    is far too small. The scale c is measured instead, between parts of the reference and the whole, and
    n and m count requests: the no-drift value is c (1/n + 1/m).
    """

    psi: float
    jensen_shannon: float

    @classmethod
    def measure(
        cls, cells: Cells, whole: Integers, requests: int, chunks: Sequence[tuple[Integers, int]]
    ) -> NoDriftScale:
        """chunks: histogram and requests of parts of the `whole`; NaN with fewer than two of them.

        A chunk of n out of m requests differs from the whole by c (1/n - 1/m) on average, because it is
        part of it.
        """
        if len(chunks) < 2:
            return cls(math.nan, math.nan)
        expected = cells.shares(whole)
        shares = [(cells.shares(part), 1 / n - 1 / requests) for part, n in chunks]
        return cls(
            psi=float(np.mean([population_stability(p, expected) / spread for p, spread in shares])),
            jensen_shannon=float(np.mean([jensen_shannon(p, expected) / spread for p, spread in shares])),
        )


def signed_counts(sketch: TapSketch) -> Integers:
    return sketch.histogram.signed()


def divergences(
    cells: Cells, scale: NoDriftScale, reference: TapSketch, window: TapSketch
) -> tuple[float, float]:
    """PSI and JS of the window against the reference, the no-drift value of each subtracted.

    About 0 on average without drift, so a single one may be negative; NaN without values.
    """
    if not window.histogram.total or not reference.histogram.total:
        return math.nan, math.nan
    expected, seen = cells.shares(signed_counts(reference)), cells.shares(signed_counts(window))
    noise = 1 / window.counts.requests + 1 / reference.counts.requests
    return (
        population_stability(seen, expected) - scale.psi * noise,
        jensen_shannon(seen, expected) - scale.jensen_shannon * noise,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Weighted:
    """values: float64[n, columns], one row a request, NaN where it has none. weights: float64[n]."""

    values: Array
    weights: Array


def largest_shift(reference: Weighted, window: Weighted) -> tuple[int, float]:
    """The request statistic whose mean moved most: (column, signed shift); (-1, NaN) where none can be told.

    In standard deviations of the reference's requests. Of k columns and n requests of equal weight the
    largest is about sqrt(2 ln(2k) / n) without drift.
    """
    shifts = [
        _shift(*_spread(expected, reference.weights), _spread(seen, window.weights)[0])
        for expected, seen in zip(reference.values.T, window.values.T, strict=True)
    ]
    if all(map(math.isnan, shifts)):
        return -1, math.nan
    column = int(np.nanargmax(np.abs(shifts)))
    return column, shifts[column]


def _spread(values: Array, weights: Array) -> tuple[float, float]:
    """Weighted mean and standard deviation of the finite values; NaN without any."""
    known = np.isfinite(values)
    if not known.any():
        return math.nan, math.nan
    values, weights = values[known], weights[known]
    mean = float(np.average(values, weights=weights))
    return mean, math.sqrt(np.average((values - mean) ** 2, weights=weights))


def _shift(expected: float, sigma: float, seen: float) -> float:
    return (seen - expected) / sigma if sigma > 0 else math.nan


def worst_channels(reference: TapSketch, window: TapSketch, k: int = 3) -> list[tuple[int, float]]:
    """The k channels whose mean moved most: (index, signed shift), largest |shift| first.

    In standard deviations of the channel's values in the reference, taken as at least a thousandth of
    the tap's, so that a channel that was constant has a shift too. The largest of C shifts is not 0 without
    drift: compare it with its own past, not with 0.
    """
    if not window.channels.positions or not reference.channels.positions:
        return []
    floor = max(_LEAST_SIGMA * reference.moments.stddev, np.finfo(np.float64).tiny)
    sigma = np.maximum(np.sqrt(reference.channels.variance), floor)
    shift = (window.channels.mean - reference.channels.mean) / sigma
    worst = np.argsort(-np.abs(shift), kind="stable")[:k]
    return [(int(index), float(shift[index])) for index in worst]
