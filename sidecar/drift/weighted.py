"""Requests that stand for more or fewer others: their means, spreads and covariances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

LEAST_SPREAD = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """Centre and spread of each statistic, float64[statistics]; the spread is never 0."""

    centre: Array
    spread: Array


@dataclass(frozen=True, slots=True, eq=False)
class Weighted:
    """values: float64[n, statistics], one row a request, NaN where it has none. weights: float64[n]."""

    values: Array
    weights: Array

    def __len__(self) -> int:
        return len(self.weights)

    def part(self, chosen: npt.NDArray[Any]) -> Weighted:
        return Weighted(self.values[chosen], self.weights[chosen])

    def known(self) -> Weighted:
        """Those of which every statistic is finite."""
        return self.part(np.asarray(np.isfinite(self.values).all(axis=1)))

    def scale(self) -> Scale:
        """Of known requests; centre 0 and spread 1 without any."""
        if not len(self):
            return Scale(np.zeros(self.values.shape[1]), np.ones(self.values.shape[1]))
        centre = np.average(self.values, axis=0, weights=self.weights)
        spread = np.sqrt(np.average((self.values - centre) ** 2, axis=0, weights=self.weights))
        # A statistic that never moved still has rounding errors.
        return Scale(centre, np.maximum(spread, LEAST_SPREAD * (1 + np.abs(centre))))

    def standard(self, scale: Scale) -> Weighted:
        return Weighted((self.values - scale.centre) / scale.spread, self.weights)

    def sums(self) -> tuple[float, Array, Array]:
        """Sums of the weights, of the values and of their products, the last float64[statistics, statistics]."""
        lifted = self.values * self.weights[:, None]
        return float(self.weights.sum()), lifted.sum(axis=0), lifted.T @ self.values

    def moments(self) -> tuple[Array, Array]:
        """Mean and covariance of known requests, float64[statistics] and [statistics, statistics]."""
        weight, total, products = self.sums()
        mean = total / weight
        return mean, products / weight - np.outer(mean, mean)


def ratio(over: Array, under: npt.NDArray[Any]) -> Array:
    """NaN where `under` is not above 0."""
    over, under = np.broadcast_arrays(over, under)
    found: Array = np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0)
    return found
