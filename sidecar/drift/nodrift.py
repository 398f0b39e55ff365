"""What each effect size is without drift, measured on the reference by resampling its requests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sidecar.drift.effects import (
    Cells,
    Integers,
    divergences,
    frechet,
    histogram_distances,
    largest,
    shifts,
    signed_counts,
)
from sidecar.drift.weighted import Array, Scale, Weighted
from sidecar.sketch import TapSketch

EFFECTS = ("psi", "jensen_shannon", "kolmogorov_smirnov", "wasserstein", "mean_shift", "frechet")

LEVEL = 0.999
"""Share of windows without drift whose effect stays at or below the no-drift level."""

RESAMPLES = 1_000
BLOCKS = 64
_LEAST_BLOCK = 5
_LEAST_PARTS = 8

_POWER = np.array([1.0, 1.0, 0.5, 0.5, 0.5, 1.0])
"""Divergences fall with the number of requests as a variance does, the others as a standard error does."""


@dataclass(frozen=True, slots=True)
class NoDrift:
    """Mean and 99.9% quantile of each effect between two samples without drift, one of `EFFECTS` each.

    For n requests against m both are to be multiplied by (1/n + 1/m), to the power 1 for PSI, Jensen-Shannon
    and Frechet, 1/2 for the others. NaN where the reference was too short to tell.
    """

    mean: tuple[float, ...]
    level: tuple[float, ...]

    @classmethod
    def unknown(cls) -> NoDrift:
        return cls((math.nan,) * len(EFFECTS), (math.nan,) * len(EFFECTS))

    def at(self, n: Array, m: Array) -> tuple[Array, Array]:
        """Mean and level of each effect for samples of n and m requests, each float64[effects]."""
        spread = (1 / n + 1 / m) ** _POWER
        return np.array(self.mean) * spread, np.array(self.level) * spread


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """One tap of the reference, and what is worked out from it once. rows: statistics of every request."""

    sketch: TapSketch
    cells: Cells
    rows: Weighted
    nodrift: NoDrift


@dataclass(frozen=True, slots=True)
class EffectSizes:
    """How far a window is from the reference, each less what it averages without drift; NaN where it is not known.

    kolmogorov_smirnov 0 to 1, wasserstein in standard deviations of the values, frechet in squared standard
    deviations of the requests' statistics. mean_shift, in standard deviations of the requests: of the
    statistic that moved most, the column `shifted` (-1: none), signed; its no-drift mean
    brings it no further than to 0.
    levels: effect -> its 99.9% no-drift level, for as many requests.
    times_level: the largest effect over its level, before anything is subtracted; 1 or less in 99.9% of
        windows for each effect without drift.
    """

    psi: float
    jensen_shannon: float
    kolmogorov_smirnov: float
    wasserstein: float
    mean_shift: float
    frechet: float
    shifted: int
    levels: Mapping[str, float]
    times_level: float

    @classmethod
    def unknown(cls) -> EffectSizes:
        nan = math.nan
        return cls(nan, nan, nan, nan, nan, nan, -1, dict.fromkeys(EFFECTS, nan), nan)


def effect_sizes(expected: Expected, window: TapSketch, rows: Weighted) -> EffectSizes:
    """rows: statistics of the window's requests."""
    seen, old = signed_counts(window), signed_counts(expected.sketch)
    if not seen.any() or not old.any():
        return EffectSizes.unknown()
    at = np.flatnonzero(seen + old)
    moved = shifts(expected.rows, rows)
    shifted = largest(moved)
    here, there = rows.known(), expected.rows.known()
    distance = math.nan
    if len(here) > 1 and len(there) > 1:
        scale = there.scale()
        distance = float(frechet(*there.standard(scale).moments(), *here.standard(scale).moments()))
    shift = float(moved[shifted]) if shifted >= 0 else math.nan
    raw = np.array(
        [
            *divergences(expected.cells.counts(seen), expected.cells.counts(old)),
            *histogram_distances(seen[at], old[at], at, expected.sketch.moments.stddev),
            abs(shift),
            distance,
        ],
        dtype=np.float64,
    )
    requests = np.array([window.counts.requests] * 4 + [max(len(here), 1)] * 2, dtype=np.float64)
    among = np.array([expected.sketch.counts.requests] * 4 + [max(len(there), 1)] * 2, dtype=np.float64)
    mean, level = expected.nodrift.at(requests, among)
    less = raw - mean
    less[4] = math.copysign(max(less[4], 0.0), shift) if not math.isnan(less[4]) else shift
    ratios = np.divide(raw, level, out=np.full(len(raw), math.nan), where=level > 0)
    psi, js, ks, wasserstein, mean_shift, distance = less.tolist()
    times = float(np.nanmax(ratios)) if np.isfinite(ratios).any() else math.nan
    return EffectSizes(
        psi,
        js,
        ks,
        wasserstein,
        mean_shift,
        distance,
        shifted,
        dict(zip(EFFECTS, level.tolist(), strict=True)),
        times,
    )


def measure(
    cells: Cells,
    chunks: Sequence[tuple[Integers, int]],
    rows: Weighted,
    sigma: float,
    rng: np.random.Generator,
) -> NoDrift:
    """Split the reference into two halves of whole chunks a thousand times, and compare the halves.

    chunks: `Histogram.signed` and number of requests of consecutive parts; rows: the statistics of every
    request in order, which are cut into 64 parts. What depends within a part stays together, so neighbours that
    resemble each other count as the few that they are worth. sigma: of all values.
    With fewer than two parts the mean is unknown, with fewer than eight the level.
    """
    parts = np.array_split(np.arange(len(rows)), max(min(BLOCKS, len(rows) // _LEAST_BLOCK), 1))
    blocks = [block for part in parts if len(block := rows.part(part).known()) > 1]
    scaled = [np.full((1, 4), math.nan), np.full((1, 2), math.nan)]
    if len(chunks) > 1:
        scaled[0] = _between_values(cells, chunks, _halves(len(chunks), rng), sigma)
    if len(blocks) > 1:
        scaled[1] = _between_rows(blocks, rows.known().scale(), _halves(len(blocks), rng))
    mean = np.concatenate([one.mean(axis=0) for one in scaled])
    level = np.concatenate([np.quantile(one, LEVEL, axis=0) for one in scaled])
    level[np.repeat([len(chunks), len(blocks)], [4, 2]) < _LEAST_PARTS] = math.nan
    return NoDrift(tuple(mean.tolist()), tuple(level.tolist()))


def _halves(parts: int, rng: np.random.Generator) -> Array:
    """1 for the parts that each resample puts into its first half, else 0, [resamples, parts]."""
    first = np.tile(np.arange(parts) % 2 == 0, (RESAMPLES, 1))
    return rng.permuted(first, axis=1).astype(np.float64)


def _spread(half: Array, requests: Sequence[int]) -> Array:
    """1/n + 1/m of each resample, [resamples, 1]."""
    sizes = np.array(requests, dtype=np.float64)
    spread: Array = 1 / (half @ sizes) + 1 / ((1 - half) @ sizes)
    return spread[:, None]


def _sides(half: Array, parts: Array) -> tuple[Array, Array]:
    """What each half of each resample adds up to, [chunks, columns] -> twice [resamples, columns]."""
    # Not `@`, whose threads would take the cores of the model for so little.
    first: Array = np.einsum("rk,kc->rc", half, parts)
    return first, parts.sum(axis=0) - first


def _between_values(cells: Cells, chunks: Sequence[tuple[Integers, int]], half: Array, sigma: float) -> Array:
    """The first four effects between the halves of each resample, over their spread, [resamples, 4]."""
    counts = np.array([part for part, _ in chunks], dtype=np.float64)
    at = np.flatnonzero(counts.any(axis=0))
    in_buckets, in_cells = _sides(half, counts[:, at]), _sides(half, cells.counts(counts))
    effects = np.stack([*divergences(*in_cells), *histogram_distances(*in_buckets, at, sigma)], axis=-1)
    return effects / _spread(half, [n for _, n in chunks]) ** _POWER[:4]  # type: ignore[no-any-return]


def _between_rows(blocks: Sequence[Weighted], scale: Scale, half: Array) -> Array:
    """The last two, [resamples, 2]."""
    first, second = _moments(half, [block.standard(scale).sums() for block in blocks])
    shift = np.abs(first[0] - second[0]).max(axis=-1)
    effects = np.stack([shift, frechet(*first, *second)], axis=-1)
    return effects / _spread(half, [len(block) for block in blocks]) ** _POWER[4:]  # type: ignore[no-any-return]


def _moments(
    half: Array, sums: Sequence[tuple[float, Array, Array]]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Means and covariances, [resamples, d] and [resamples, d, d], of both halves of each resample."""
    width = len(sums[0][1])
    parts = np.stack(
        [np.concatenate([[weight], total, products.ravel()]) for weight, total, products in sums]
    )
    found = []
    for side in _sides(half, parts):
        mean, second = side[:, 1 : width + 1] / side[:, :1], side[:, width + 1 :] / side[:, :1]
        covariance = second.reshape(-1, width, width) - mean[:, :, None] * mean[:, None, :]
        found.append((mean, covariance))
    return found[0], found[1]
