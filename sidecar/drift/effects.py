"""Effect sizes that people read: how large is the drift, not whether there is one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sidecar.drift.weighted import Array, Weighted
from sidecar.sketch import TapSketch
from sidecar.sketch.histogram import bounds

Integers = npt.NDArray[np.int64]

CELLS = 20
_ZERO_CELL = 2048
_LEAST_SIGMA = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """About twenty cells of equal mass in the reference, over the cells of `Histogram.signed`.

    group: int64[4097], the cell that each belongs to, never falling. Zeros are a cell of their own where they carry at
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

    @property
    def starts(self) -> Integers:
        """Where each begins, int64[cells]."""
        return np.searchsorted(self.group, np.arange(self.number))

    def counts(self, signed: npt.NDArray[Any]) -> Array:
        """Values in each cell, [..., 4097] -> float64[..., cells]."""
        counts: Array = np.add.reduceat(signed.astype(np.float64), self.starts, axis=-1)
        return counts


def shares(counts: Array) -> Array:
    """Share of the values in each cell, [..., cells], half a value added to each so that none is empty."""
    shares: Array = (counts + 0.5) / (counts + 0.5).sum(axis=-1, keepdims=True)
    return shares


def population_stability(p: Array, q: Array) -> Array:
    """PSI of vectors of shares, [..., cells] -> [...]: sum of (p - q) ln(p / q), in nats; Lewis 1994."""
    return np.sum((p - q) * np.log(p / q), axis=-1)  # type: ignore[no-any-return]


def jensen_shannon(p: Array, q: Array) -> Array:
    """Jensen-Shannon divergence in bits, 0 (equal) to 1 (disjoint), [..., cells] -> [...]; Lin 1991, eq. 3.2."""
    middle = (p + q) / 2
    return np.sum(p * np.log2(p / middle) + q * np.log2(q / middle), axis=-1) / 2  # type: ignore[no-any-return]


def signed_counts(sketch: TapSketch) -> Integers:
    return sketch.histogram.signed()


def divergences(first: Array, second: Array) -> tuple[Array, Array]:
    """PSI and Jensen-Shannon between counts in cells, [..., cells] -> [...]."""
    p, q = shares(first), shares(second)
    return population_stability(p, q), jensen_shannon(p, q)


def histogram_distances(
    first: npt.NDArray[Any], second: npt.NDArray[Any], at: Integers, sigma: float
) -> tuple[Array, Array]:
    """Kolmogorov-Smirnov distance, 0 to 1, and Wasserstein-1 in units of sigma, [..., cells] -> [...].

    first, second: counts in those cells of `Histogram.signed` that `at` names in rising order; all others are empty.
    The first is the largest difference of the distribution functions at edges of buckets: at most what it is of
    the values themselves. The second is the area between them (Vallender 1974), straight lines within
    buckets: off by at most the width of the buckets, an eighth of the magnitude of the values in them.
    NaN where either is empty.
    """
    with np.errstate(invalid="ignore"):
        gap = np.cumsum(first, axis=-1) / first.sum(axis=-1, keepdims=True)
        gap = gap - np.cumsum(second, axis=-1) / second.sum(axis=-1, keepdims=True)
    before = np.concatenate([np.zeros_like(gap[..., :1]), gap[..., :-1]], axis=-1)
    low, high = (bound[at] for bound in bounds())
    area = _area(before, gap) @ (high - low) + np.abs(gap[..., :-1]) @ (low[1:] - high[:-1])
    largest: Array = np.abs(gap).max(axis=-1, initial=0.0)
    return largest, area / sigma if sigma > 0 else np.full_like(area, math.nan)


def _area(left: Array, right: Array) -> Array:
    """Area between 0 and a line from `left` to `right` over one unit."""
    total = np.abs(left) + np.abs(right)
    crossing = np.sign(left) * np.sign(right) < 0
    apart = np.where(crossing, total, 1.0)
    area: Array = np.where(crossing, (left**2 + right**2) / apart, total) / 2
    return area


def frechet(mean: Array, covariance: Array, other_mean: Array, other_covariance: Array) -> Array:
    """Squared Frechet distance of Gaussians, [..., d] and [..., d, d] -> [...]; Dowson and Landau 1982, eq. 4."""
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    return frechet_from(mean, root, other_mean, other_covariance)


def frechet_from(mean: Array, factor: Array, other_mean: Array, other_covariance: Array) -> Array:
    """`frechet` where the first covariance is F F', with any such F: the eigenvalues of F'C F are the same."""
    products = np.swapaxes(factor, -1, -2) @ other_covariance @ factor
    common = np.sqrt(np.maximum(np.linalg.eigvalsh(products), 0.0)).sum(axis=-1)
    traces = np.sum(factor**2, axis=(-2, -1)) + np.trace(other_covariance, axis1=-2, axis2=-1)
    return np.sum((mean - other_mean) ** 2, axis=-1) + traces - 2 * common  # type: ignore[no-any-return]


def shifts(reference: Weighted, window: Weighted) -> Array:
    """Shift of the mean of each request statistic, signed, float64[statistics]; NaN where it cannot be told.

    In standard deviations of the reference's requests.
    """
    means, sigmas = spreads(reference)
    moved = spreads(window)[0] - means
    return np.divide(moved, sigmas, out=np.full_like(moved, math.nan), where=sigmas > 0)


def largest(shifts: Array) -> int:
    """The column of the largest shift in either direction; -1 where none is known."""
    return -1 if np.isnan(shifts).all() else int(np.nanargmax(np.abs(shifts)))


def spreads(rows: Weighted) -> tuple[Array, Array]:
    """Weighted mean and standard deviation of each statistic's finite values, NaN without any."""
    means, sigmas = (np.full(rows.values.shape[1], math.nan) for _ in range(2))
    for column, values in enumerate(rows.values.T):
        known = np.isfinite(values)
        if known.any():
            weights = rows.weights[known]
            means[column] = mean = np.average(values[known], weights=weights)
            sigmas[column] = math.sqrt(np.average((values[known] - mean) ** 2, weights=weights))
    return means, sigmas


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
