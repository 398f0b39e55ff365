"""Distances from a centre in units of a covariance: Mahalanobis, shrunk so that few requests are enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_RELATIVE_NOISE = 1e-6
_LEAST_SHRINKAGE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Whitened:
    """centre: float64[p]. matrix: float64[p, p], makes vectors less the centre white."""

    centre: Array
    matrix: Array

    @classmethod
    def fit(cls, vectors: Array, shrink: Callable[[Array], Array]) -> Whitened:
        """vectors: float64[n, p], rows with NaN are left out. shrink: standardised vectors -> covariance."""
        known = vectors[~np.isnan(vectors).any(axis=1)]
        width = vectors.shape[1]
        if not len(known):
            return cls(np.zeros(width), np.eye(width))
        centre = known.mean(axis=0)
        # What never moved still has rounding errors, which are no measure of strangeness.
        scale = np.maximum(known.std(axis=0), _RELATIVE_NOISE * (1.0 + np.abs(centre)))
        covariance = shrink((known - centre) / scale)
        return cls(centre, np.linalg.inv(np.linalg.cholesky(covariance)).T / scale[:, None])

    def distance(self, vectors: Array) -> Array:
        white = (vectors - self.centre) @ self.matrix
        distance: Array = np.sqrt(np.einsum("nf,nf->n", white, white))
        return distance


def finite(values: Array) -> Array:
    """NaN for rows that are not finite throughout."""
    return np.where(np.isfinite(values).all(axis=1, keepdims=True), values, np.nan)


def ridge(standard: Array) -> Array:
    """Correlation shrunk towards the identity by p / (p + n), so features may repeat each other."""
    n, p = standard.shape
    part = p / (p + n)
    shrunk: Array = (1 - part) * standard.T @ standard / n + part * np.eye(p)
    return shrunk


def ledoit_wolf(standard: Array) -> Array:
    """Covariance of float64[n, p] with mean 0, shrunk towards a multiple of the identity by what its error asks for.

    Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004, eq. 14.
    """
    n, p = standard.shape
    sample = standard.T @ standard / n
    # What never varies has a covariance of 0, which has no inverse.
    target = (np.trace(sample) / p or 1.0) * np.eye(p)
    spread = np.sum((sample - target) ** 2)
    error = (np.mean(np.sum(standard**2, axis=1) ** 2) - np.sum(sample**2)) / n
    part = max(min(error / spread, 1.0), _LEAST_SHRINKAGE) if spread > 0 else 1.0
    shrunk: Array = part * target + (1 - part) * sample
    return shrunk
