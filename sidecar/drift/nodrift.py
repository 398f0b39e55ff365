"""What each effect size is without drift, measured on the reference by resampling its requests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sidecar.drift.effects import (
    Cells,
    Integers,
    divergences,
    frechet,
    histogram_distances,
)
from sidecar.drift.weighted import Array, Scale, Weighted

EFFECTS = ("psi", "jensen_shannon", "kolmogorov_smirnov", "wasserstein", "mean_shift", "frechet")

OF_VALUES = EFFECTS[:4]
"""Those that histograms alone tell."""

LEVEL = 0.999
"""Share of windows without drift whose effect stays at or below the no-drift level."""

RESAMPLES = 1_000
BLOCKS = 64
LEAST_BLOCK = 5
LEAST_PARTS = 8

_POWER = np.array([1.0, 1.0, 0.5, 0.5, 0.5, 1.0])
"""Divergences fall with the number of requests as a variance does, the others as a standard error does."""


@dataclass(frozen=True, slots=True)
class NoDrift:
    """Mean and 99.9% quantile of each effect between two samples without drift, one of `EFFECTS` each.

    For n requests against m both are to be multiplied by what `spread` says. NaN where the reference was too short to
    tell.
    """

    mean: tuple[float, ...]
    level: tuple[float, ...]

    @classmethod
    def unknown(cls) -> NoDrift:
        return cls((math.nan,) * len(EFFECTS), (math.nan,) * len(EFFECTS))


def spread(n: Array, m: Array, shared: float = 0.0) -> Array:
    """How far samples of n and m requests differ by chance, float64[..., effects], from the same or [..., 1].

    1/n + 1/m, to the power 1 for PSI, Jensen-Shannon and Frechet, 1/2 for the others. Requests that both samples
    `shared` take 2 shared / nm off, as off the variance of a difference of means: twice their covariance.
    """
    return np.maximum(1 / n + 1 / m - 2 * shared / (n * m), 0.0) ** _POWER  # type: ignore[no-any-return]


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
    parts = np.array_split(np.arange(len(rows)), max(min(BLOCKS, len(rows) // LEAST_BLOCK), 1))
    blocks = [block for part in parts if len(block := rows.part(part).known()) > 1]
    of_values = measure_values(cells, chunks, sigma, rng)
    of_rows = np.full((1, 2), math.nan)
    if len(blocks) > 1:
        of_rows = _between_rows(blocks, rows.known().scale(), _halves(len(blocks), RESAMPLES, rng))
    mean, level = _mean_and_level(of_rows, len(blocks))
    return NoDrift((*of_values.mean[: len(OF_VALUES)], *mean), (*of_values.level[: len(OF_VALUES)], *level))


def measure_values(
    cells: Cells,
    chunks: Sequence[tuple[Integers, int]],
    sigma: float,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> NoDrift:
    """The part of `measure` that needs no single request: `OF_VALUES`, all others unknown."""
    scaled = np.full((1, len(OF_VALUES)), math.nan)
    if len(chunks) > 1:
        scaled = _between_values(cells, chunks, _halves(len(chunks), resamples, rng), sigma)
    unknown = (math.nan,) * (len(EFFECTS) - len(OF_VALUES))
    mean, level = _mean_and_level(scaled, len(chunks))
    return NoDrift((*mean, *unknown), (*level, *unknown))


def _mean_and_level(scaled: Array, parts: int) -> tuple[list[float], list[float]]:
    level = np.quantile(scaled, LEVEL, axis=0)
    if parts < LEAST_PARTS:
        level[:] = math.nan
    return scaled.mean(axis=0).tolist(), level.tolist()


def _halves(parts: int, resamples: int, rng: np.random.Generator) -> Array:
    """1 for the parts that each resample puts into its first half, else 0, [resamples, parts]."""
    first = np.tile(np.arange(parts) % 2 == 0, (resamples, 1))
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
    return effects / _spread(half, [n for _, n in chunks]) ** _POWER[: len(OF_VALUES)]  # type: ignore[no-any-return]


def _between_rows(blocks: Sequence[Weighted], scale: Scale, half: Array) -> Array:
    """The last two, [resamples, 2]."""
    first, second = _moments(half, [block.standard(scale).sums() for block in blocks])
    shift = np.abs(first[0] - second[0]).max(axis=-1)
    effects = np.stack([shift, frechet(*first, *second)], axis=-1)
    return effects / _spread(half, [len(block) for block in blocks]) ** _POWER[len(OF_VALUES) :]  # type: ignore[no-any-return]


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
