"""How far a window is from the reference, at all taps at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sidecar.drift.effects import (
    Cells,
    Integers,
    frechet,
    histogram_distances,
    jensen_shannon,
    population_stability,
    signed_counts,
    spreads,
)
from sidecar.drift.frechet import Distances
from sidecar.drift.nodrift import EFFECTS, NoDrift, spread
from sidecar.drift.recent import Described
from sidecar.drift.weighted import Array, Scale, Weighted, ratio
from sidecar.sketch import TapSketch

_SHIFT, _FRECHET = (EFFECTS.index(name) for name in ("mean_shift", "frechet"))
_OF_VALUES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """One tap of the reference, and what is worked out from it once.

    signed: its histogram. means, sigmas: of each statistic of its requests, NaN without any. scale, moments: of those
    `known` requests that have all statistics, the moments after scaling.
    """

    sketch: TapSketch
    cells: Cells
    rows: Weighted
    nodrift: NoDrift
    signed: Integers
    means: Array
    sigmas: Array
    scale: Scale
    moments: tuple[Array, Array]
    known: int

    @classmethod
    def of(cls, sketch: TapSketch, rows: Weighted, nodrift: NoDrift) -> Expected:
        """rows: statistics of every request."""
        signed, known = signed_counts(sketch), rows.known()
        means, sigmas = spreads(rows)
        width = rows.values.shape[1]
        scale, moments = known.scale(), (np.zeros(width), np.zeros((width, width)))
        if len(known):
            moments = known.standard(scale).moments()
        cells = Cells.equal_mass(signed)
        return cls(sketch, cells, rows, nodrift, signed, means, sigmas, scale, moments, len(known))


@dataclass(frozen=True, slots=True)
class EffectSizes:
    """How far a window is from the reference, each less what it averages without drift; NaN where it is not known.

    kolmogorov_smirnov 0 to 1, wasserstein in standard deviations of the values, frechet in squared standard
    deviations of 32 projections of the requests' channel means where `frechet_of_channel_means`, else of their five
    statistics. mean_shift, in standard deviations of the requests: of the
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
    frechet_of_channel_means: bool = field(default=False, kw_only=True)

    @classmethod
    def unknown(cls) -> EffectSizes:
        nan = math.nan
        return cls(nan, nan, nan, nan, nan, nan, -1, dict.fromkeys(EFFECTS, nan), nan)


def effect_sizes(
    expected: Sequence[Expected],
    windows: Sequence[TapSketch],
    seen: Described,
    channel_means: Distances | None = None,
) -> list[EffectSizes]:
    """Of each tap, in one order throughout. seen: the window's requests.

    channel_means: the Frechet distance of their projections, instead of that of their statistics where it is known.
    """
    signed = np.stack([signed_counts(window) for window in windows])
    old = np.stack([one.signed for one in expected])
    moved = _shifts(expected, seen)
    known, frechets = _frechets(expected, seen)
    shifted = np.where(
        np.isnan(moved).all(axis=1), -1, np.argmax(np.nan_to_num(np.abs(moved), nan=-1.0), axis=1)
    )
    shift = moved[np.arange(len(moved)), shifted]
    raw = np.column_stack([*_of_values(expected, signed, old), np.abs(shift), frechets])
    mean, level = _without_drift(expected, windows, known)
    projected = np.zeros(len(expected), dtype=np.bool_)
    if channel_means:
        projected = ~np.isnan(channel_means.found)
        replaced = ((raw, channel_means.found), (mean, channel_means.mean), (level, channel_means.level))
        for effects, distances in replaced:
            effects[projected, _FRECHET] = distances[projected]
    less = raw - mean
    corrected = np.copysign(np.maximum(less[:, _SHIFT], 0.0), shift)
    less[:, _SHIFT] = np.where(np.isnan(less[:, _SHIFT]), shift, corrected)
    ratios = ratio(raw, level)
    times = np.where(np.isfinite(ratios).any(axis=1), np.fmax.reduce(ratios, axis=1), math.nan)
    both = np.logical_and(signed.any(axis=1), old.any(axis=1))
    return [
        EffectSizes(
            **dict(zip(EFFECTS, sizes, strict=True)),
            shifted=int(column),
            levels=dict(zip(EFFECTS, levels, strict=True)),
            times_level=most,
            frechet_of_channel_means=of_means,
        )
        if there
        else EffectSizes.unknown()
        for there, sizes, column, levels, most, of_means in zip(
            both.tolist(),
            less.tolist(),
            shifted,
            level.tolist(),
            times.tolist(),
            projected.tolist(),
            strict=True,
        )
    ]


def _shifts(expected: Sequence[Expected], seen: Described) -> Array:
    """`effects.shifts` of every tap, float64[taps, statistics]."""
    finite = np.isfinite(seen.values)
    if finite.all():
        means = ratio(np.einsum("n,tnf->tf", seen.weights, seen.values), seen.weights.sum())
    else:
        total = np.einsum("n,tnf->tf", seen.weights, np.where(finite, seen.values, 0.0))
        means = ratio(total, np.einsum("n,tnf->tf", seen.weights, finite))
    return ratio(
        means - np.stack([one.means for one in expected]), np.stack([one.sigmas for one in expected])
    )


def _frechets(expected: Sequence[Expected], seen: Described) -> tuple[Integers, Array]:
    """How many requests each tap knows all statistics of, and their Frechet distance from the reference's."""
    centre = np.stack([one.scale.centre for one in expected])[:, None]
    standard = (seen.values - centre) / np.stack([one.scale.spread for one in expected])[:, None]
    # A sum is finite where all are, and quicker than `all` over so short an axis.
    known = np.isfinite(np.einsum("tnf->tn", standard))
    if not known.all():
        standard[~known] = 0.0
    weights = seen.weights * known
    mass = weights.sum(axis=1)[:, None]
    mean = ratio(np.einsum("tn,tnf->tf", weights, standard), mass)
    products = ratio(np.swapaxes(standard * weights[..., None], 1, 2) @ standard, mass[..., None])
    covariance = products - mean[:, :, None] * mean[:, None, :]
    counted = np.count_nonzero(known, axis=1)
    both = (counted > 1) & np.array([one.known > 1 for one in expected])
    found = np.full(len(expected), math.nan)
    if both.any():
        mean_then, covariance_then = (np.stack([one.moments[part] for one in expected]) for part in (0, 1))
        found[both] = frechet(mean_then[both], covariance_then[both], mean[both], covariance[both])
    return counted, found


def _of_values(
    expected: Sequence[Expected], signed: Integers, old: Integers
) -> tuple[Array, Array, Array, Array]:
    """The first four effects between histograms, float64[taps] each, before anything is subtracted."""
    at = np.flatnonzero((signed + old).any(axis=0))
    largest, area = histogram_distances(signed[:, at], old[:, at], at, 1.0)
    sigma = np.array([one.sketch.moments.stddev for one in expected])
    area = ratio(area, sigma)
    starts = [one.cells.starts for one in expected]
    cells = np.array([len(each) for each in starts])
    filled = np.arange(cells.max()) < cells[:, None]
    flat = np.concatenate([start + tap * signed.shape[1] for tap, start in enumerate(starts)])
    p, q = (_shares(np.add.reduceat(counts.ravel(), flat), filled) for counts in (signed, old))
    return population_stability(p, q), jensen_shannon(p, q), largest, area


def _shares(counts: Integers, filled: npt.NDArray[np.bool_]) -> Array:
    """`effects.shares` of taps with fewer cells than others: those they lack are 1, the same on either side."""
    padded = np.zeros(filled.shape)
    padded[filled] = counts + 0.5
    shares: Array = padded / padded.sum(axis=1, keepdims=True)
    return np.where(filled, shares, 1.0)


def _without_drift(
    expected: Sequence[Expected], windows: Sequence[TapSketch], known: Integers
) -> tuple[Array, Array]:
    """Mean and level of each effect for so many requests, float64[taps, effects]."""
    seen = [window.counts.requests for window in windows]
    among = [one.sketch.counts.requests for one in expected]
    beside = [one.known for one in expected]
    of_values = np.arange(len(EFFECTS)) < _OF_VALUES
    n = np.where(of_values, np.column_stack([seen]), np.maximum(known, 1)[:, None])
    m = np.where(of_values, np.column_stack([among]), np.maximum(beside, 1)[:, None])
    spreads = spread(np.maximum(n, 1), np.maximum(m, 1))
    nodrift = np.array([(one.nodrift.mean, one.nodrift.level) for one in expected])
    return nodrift[:, 0] * spreads, nodrift[:, 1] * spreads
