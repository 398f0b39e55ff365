"""How far the channel means of a window are from the reference's, and how far they are without drift."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidecar.drift.effects import frechet_from
from sidecar.drift.nodrift import BLOCKS, LEAST_BLOCK, LEAST_PARTS
from sidecar.drift.projected import KEPT
from sidecar.drift.space import MeanSpace, Projections
from sidecar.drift.weighted import LEAST_SPREAD, Array, ratio

SIZES = (2, 4, 8, 16, 32, 64, 128, 256, KEPT)
"""Windows whose distance without drift is measured: with 32 projections it does not fall as 1/n does."""

_RESAMPLES = 64
_LEVEL_SIGMAS = 3.090
"""The 99.9% quantile of a standard normal, for `LEVEL` of `nodrift`."""


@dataclass(frozen=True, slots=True, eq=False)
class Distances:
    """Squared Frechet distance of each tap, and its no-drift mean and level, float64[taps]; NaN where not known."""

    found: Array
    mean: Array
    level: Array

    @classmethod
    def unknown(cls, taps: int) -> Distances:
        return cls(*np.full((3, taps), math.nan))


@dataclass(frozen=True, slots=True, eq=False)
class Gaussians:
    """What the projections of each tap are like in the reference, and what is worked out from that once.

    centres, sigmas: float64[taps, p]. factors: float64[taps, p, p], F of the covariance F F' in these sigmas.
    NaN for a tap without projections.
    """

    centres: Array
    sigmas: Array
    factors: Array

    @classmethod
    def of(cls, space: MeanSpace) -> Gaussians:
        centres = space.centres.astype(np.float64)
        factors = np.full(space.matrices.shape, math.nan)
        known = ~np.isnan(centres).any(axis=1)
        factors[known] = np.swapaxes(np.linalg.inv(space.matrices[known].astype(np.float64)), 1, 2)
        # What never moved still has rounding errors.
        sigmas = np.maximum(np.sqrt(np.sum(factors**2, axis=2)), LEAST_SPREAD * (1 + np.abs(centres)))
        return cls(centres, sigmas, factors / sigmas[:, :, None])

    def distances(self, projections: Projections, weights: Array, nodrift: Array) -> Distances:
        """Of a window, from the reference. Covariances are those of all requests that a tap knows projections of.

        projections: float32[taps, n, p]. weights: float64[n]. nodrift: what `measure` gave.
        """
        unknown = Distances.unknown(len(self.centres))
        if projections.shape[::2] != self.centres.shape or not projections.shape[2]:
            return unknown
        away = projections - self.centres[:, None]
        # A sum is finite where all are, and quicker than `all` over so short an axis.
        known = np.isfinite(np.einsum("tnp->tn", away))
        if not known.all():
            away[~known] = 0.0
        shares = weights * known
        requests = ratio(shares.sum(axis=1) ** 2, np.sum(shares**2, axis=1))  # Kish, Survey Sampling, 1965
        both = np.flatnonzero((requests >= SIZES[0]) & ~np.isnan(nodrift[:, 0, 0]))
        if not len(both):
            return unknown
        means, covariances = _moments(away, ratio(shares, shares.sum(axis=1, keepdims=True)))
        means /= self.sigmas
        covariances /= self.sigmas[:, :, None] * self.sigmas[:, None, :]
        unknown.found[both] = _from_reference(self.factors[both], means[both], covariances[both])
        at = np.log(requests[both])
        for known_of, curves in ((unknown.mean, nodrift[both, 0]), (unknown.level, nodrift[both, 1])):
            known_of[both] = [_between(n, curve) for n, curve in zip(at, curves, strict=True)]
        return unknown

    def measure(self, projections: Projections, rng: np.random.Generator) -> Array:
        """Mean and 99.9% level without drift of windows of `SIZES` requests, float64[taps, 2, sizes].

        projections: float32[taps, n, p] of requests of the reference in order that its covariance was not made of,
        because those lie nearer to it than new ones. Windows are put together from different runs of
        consecutive requests (Carlstein 1986), so neighbours that resemble each other count as the few that they are
        worth; none is larger than half of what there is. NaN for a tap that knows fewer than forty.
        """
        found = np.full((len(projections), 2, len(SIZES)), math.nan)
        for tap, values in enumerate(projections):
            standard = (values - self.centres[tap]) / self.sigmas[tap]
            known = standard[np.isfinite(standard).all(axis=1)]
            if standard.size and len(known) >= LEAST_PARTS * LEAST_BLOCK:
                windows = (self._windows(known, min(size, len(known) // 2), rng) for size in SIZES)
                without = [_from_reference(self.factors[tap], *_moments(*window)) for window in windows]
                found[tap] = np.transpose([_mean_and_level(one) for one in without])
        return found

    @staticmethod
    def _windows(known: Array, size: int, rng: np.random.Generator) -> tuple[Array, Array]:
        run = min(max(len(known) // BLOCKS, LEAST_BLOCK), size)
        runs = rng.permuted(np.tile(np.arange(len(known) // run), (_RESAMPLES, 1)), axis=1)
        starts = run * runs[:, : math.ceil(size / run)]
        chosen = (starts[:, :, None] + np.arange(run)).reshape(_RESAMPLES, -1)[:, :size]
        return known[chosen], np.full((_RESAMPLES, size), 1 / size)


def _moments(values: Array, shares: Array) -> tuple[Array, Array]:
    """Means and covariances of [k, n, p], each request for its share [k, n] of all."""
    lifted = values * shares[..., None]
    mean = np.einsum("knp->kp", lifted)
    return mean, np.swapaxes(lifted, 1, 2) @ values - mean[:, :, None] * mean[:, None, :]


def _from_reference(factors: Array, means: Array, covariances: Array) -> Array:
    return frechet_from(np.zeros(means.shape[-1]), factors, means, covariances)


def _mean_and_level(distances: Array) -> tuple[float, float]:
    """The level as of a chi-squared distribution of this mean and variance: Wilson and Hilferty 1931.

    Sums of squares that differ in weight are near one (Satterthwaite 1946); so few windows alone do not tell a 99.9%.
    """
    mean, variance = float(distances.mean()), float(distances.var())
    if variance <= 0:
        return mean, mean
    part = variance / (9 * mean**2)
    return mean, mean * (1 - part + _LEVEL_SIGMAS * math.sqrt(part)) ** 3


def _between(at: float, curve: npt.NDArray[np.float64]) -> float:
    """Straight lines on logarithmic scales. at: logarithm of a number of requests."""
    tiny = np.finfo(np.float64).tiny
    return math.exp(np.interp(at, np.log(SIZES), np.log(np.maximum(curve, tiny))))
