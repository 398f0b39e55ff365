"""How far the values of two sketches are apart, and how far they are without drift."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sidecar.drift.effects import Cells, divergences, histogram_distances, signed_counts
from sidecar.drift.nodrift import OF_VALUES, NoDrift, measure_values, spread
from sidecar.sketch import Moments, TapSketch

_RESAMPLES = 128
_SEED = 0
"""The same parts give the same values."""


@dataclass(frozen=True, slots=True)
class ValueEffects:
    """By effect, of `OF_VALUES`: psi in nats, jensen_shannon and kolmogorov_smirnov 0 to 1, wasserstein in sigmas.

    sizes: each less what `no_drift` has of it; as it was found where that has nothing; NaN without values.
    no_drift, levels: mean and 99.9% quantile without drift between samples of so many requests, where known.
    times_level: the largest effect over its level, before anything is subtracted; NaN where no level is known.
    """

    sizes: Mapping[str, float]
    no_drift: Mapping[str, float]
    levels: Mapping[str, float]
    times_level: float


def value_effects(left: TapSketch, right: TapSketch, nodrift: NoDrift, shared: float = 0.0) -> ValueEffects:
    """From the left to the right side, in cells of equal mass and standard deviations of the left.

    shared: requests that are in both sides.
    """
    ours, theirs = signed_counts(left), signed_counts(right)
    if not (ours.any() and theirs.any()):
        return ValueEffects(dict.fromkeys(OF_VALUES, math.nan), {}, {}, math.nan)
    cells, at = Cells.equal_mass(ours), np.flatnonzero(ours + theirs)
    found = (
        *divergences(cells.counts(theirs), cells.counts(ours)),
        *histogram_distances(theirs[at], ours[at], at, left.moments.stddev),
    )
    raw = dict(zip(OF_VALUES, map(float, found), strict=True))
    n, m = (np.array([max(side.counts.requests, 1)], dtype=np.float64) for side in (left, right))
    scale = spread(n, m, shared)
    mean, level = (
        {name: value for name, value in zip(OF_VALUES, (one * scale).tolist(), strict=False) if value >= 0.0}
        for one in (np.array(nodrift.mean), np.array(nodrift.level))
    )
    return ValueEffects(
        sizes={name: value - mean.get(name, 0.0) for name, value in raw.items()},
        no_drift=mean,
        levels=level,
        times_level=max((raw[name] / one for name, one in level.items() if one > 0.0), default=math.nan),
    )


def between_parts(parts: Sequence[TapSketch]) -> NoDrift:
    """Means of one sample in consecutive parts, as `nodrift.measure_values` has them of a reference's chunks.

    What changes between parts counts as no drift, and of few parts it is rough; not known with fewer than two. A
    level takes more parts than panes usually are.
    """
    chunks = [(signed_counts(part), part.counts.requests) for part in parts if part.counts.requests]
    if len(chunks) < 2:
        return NoDrift.unknown()
    # There are no more ways than these to halve a few parts.
    resamples = min(_RESAMPLES, 2 ** len(chunks))
    rng = np.random.default_rng(_SEED)
    cells = Cells.equal_mass(np.sum([counts for counts, _ in chunks], axis=0))
    moments = Moments.empty()
    for part in parts:
        moments.merge(part.moments)
    measured = measure_values(cells, chunks, moments.stddev, rng, resamples)
    return replace(measured, level=NoDrift.unknown().level)
