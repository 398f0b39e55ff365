"""Distances from a centre in units of a covariance: Mahalanobis, shrunk so that few requests are enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[np.float64]

_RELATIVE_NOISE = 1e-6
_LEAST_SHRINKAGE = 1e-6
_CHUNK = 16


@dataclass(frozen=True, slots=True, eq=False)
class Whitened:
    """centre: float64[p]. matrix: float64[p, p], makes vectors less the centre white; 0 below its diagonal."""

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
        matrix = np.linalg.inv(np.linalg.cholesky(covariance)).T / scale[:, None]
        return cls(centre, np.ascontiguousarray(matrix))

    def distance(self, vectors: Array) -> Array:
        """Mahalanobis distances, float64[n] of float64[n, p]."""
        found: Array = np.empty((1, len(vectors)))
        measure(np.ascontiguousarray(vectors)[None], self.centre[None], self.matrix[None], found)
        distances: Array = found[0]
        return distances


# Not a product of matrices: numpy's takes threads, which would spin beside the one that runs the model.
@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def measure(
    vectors: npt.NDArray[Any], centres: npt.NDArray[Any], matrices: npt.NDArray[Any], found: Array
) -> None:
    """Mahalanobis distances, found[sets, n] of vectors[sets, n, p], with the `Whitened` of each set.

    NaN where any of its numbers is NaN, infinite where the first one is.
    """
    sets, requests, width = vectors.shape
    white = np.empty((_CHUNK, width), vectors.dtype)
    for each in range(sets):
        for first in range(0, requests, _CHUNK):
            length = min(_CHUNK, requests - first)
            white[:] = 0
            for i in range(width):
                row = matrices[each, i, i:]
                for request in range(length):
                    away = vectors[each, first + request, i] - centres[each, i]
                    held = white[request, i:]
                    for j in range(len(row)):
                        held[j] += away * row[j]
            for request in range(length):
                total = white[request, 0] * white[request, 0]
                for j in range(1, width):
                    total += white[request, j] * white[request, j]
                found[each, first + request] = (
                    np.inf if np.isinf(vectors[each, first + request, 0]) else np.sqrt(total)
                )


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
