"""Where are requests heading? Scores along the direction in which all layers together moved lately."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from sidecar.drift.ranks import Integers, Ranks

Array = npt.NDArray[np.float64]

HORIZONS = (32, 128, 512)
"""How many requests one direction each is learned from, the older the less."""

_LEAST_BLOCK = 16
_SCORES_PER_TURN = 6


# Not a product of matrices: numpy's takes threads, which would spin beside the one that runs the model.
@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _project(reference: npt.NDArray[np.float32], along: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """reference [m, D], along [3, D] -> float32[3, m]: one way through the reference for all horizons."""
    requests, dimensions = reference.shape
    projected = np.empty((3, requests), np.float32)
    for request in range(requests):
        first = second = third = np.float32(0)
        for dimension in range(dimensions):
            value = reference[request, dimension]
            first += value * along[0, dimension]
            second += value * along[1, dimension]
            third += value * along[2, dimension]
        projected[0, request], projected[1, request], projected[2, request] = first, second, third
    return projected


def taken_over(mine: npt.NDArray[Any], kept: npt.NDArray[Any]) -> None:
    """Put `kept` in the place of `mine`. Raises ValueError where their shapes differ or it is not finite."""
    if mine.shape != kept.shape or mine.dtype != kept.dtype or not np.isfinite(kept).all():
        raise ValueError(f"{kept.dtype}{kept.shape} cannot take the place of {mine.dtype}{mine.shape}")
    mine[:] = kept


class Direction:
    """A linear discriminant between the newest requests and the reference, in the space of all normal scores.

    Many small shifts add up along it, and what goes together without drift counts once. It stands for a block of
    requests, and is learned from those before it, so scores along it are exchangeable with those of the reference along
    it, whatever it is.

    One thing a direction does find without drift: the sampling error of the reference's own mean, of squared length
    D / m in D whitened dimensions. Learned from n requests, requests lie (D / m) / sqrt(D / m + D / n) along it, and
    that is taken off every score. A mean that forgets 1 part in h a request is as good as one of 2 h - 1 requests.
    """

    def __init__(self, reference: Array, covariance: Array, strata: Integers, number: int) -> None:
        """reference: float64[m, D], normal scores of a part of the reference that had none in `covariance`.

        covariance: float64[D, D]. strata: int64[m], below `number`, see `Ranks`.
        """
        self._reference = np.ascontiguousarray(reference, dtype=np.float32)
        self._strata, self._number = strata, number
        # A turn goes through the reference once, which shall cost a request the same however many scores there are.
        self._size = max(_LEAST_BLOCK, reference.shape[1] // _SCORES_PER_TURN)
        self._centre = reference.mean(axis=0)
        self._precision = np.linalg.inv(covariance)
        self._means = np.zeros((len(HORIZONS), reference.shape[1]))
        self._block: list[Array] = []
        self._filled = 0
        self._turn()
        error = 1 / max(len(reference), 1)
        self._pull = np.array(
            [
                math.sqrt(reference.shape[1]) * error / math.sqrt(error + 1 / (2 * horizon - 1))
                for horizon in HORIZONS
            ]
        )

    @property
    def sizes(self) -> Integers:
        """int64[strata, 1], see `Ranks.sizes`."""
        return self._ranks.sizes

    def normal_scores(self, z: Array, strata: Integers, rng: np.random.Generator) -> Array:
        """float64[n, 1, horizons] of z, float64[n, D], whose requests turn the direction for those that follow."""
        parts = [np.empty((0, 1, len(HORIZONS)))]
        first = 0
        while first < len(z):
            last = min(first + self._size - self._filled, len(z))
            part = z[first:last]
            along = self._ranks.normal_scores((part @ self._along)[None], strata[first:last], rng)
            parts.append(along - self._pull)
            self._block.append(part - self._centre)
            self._filled += len(part)
            if self._filled == self._size:
                self._learn(np.concatenate(self._block))
                self._turn()
            first = last
        return np.concatenate(parts)

    def state(self) -> dict[str, Array]:
        """What `resume` goes on from."""
        return {
            "means": self._means,
            "block": np.concatenate([np.empty((0, self._means.shape[1])), *self._block]),
        }

    def resume(self, state: Mapping[str, Array]) -> None:
        """Raises KeyError or ValueError where `state` is of something else."""
        taken_over(self._means, state["means"])
        block = state["block"]
        if block.ndim != 2 or block.shape[1] != self._means.shape[1] or len(block) >= self._size:
            raise ValueError(f"a block of {block.shape} is none of {self._means.shape[1]} scores")
        self._block, self._filled = [block], len(block)
        self._turn()

    def _learn(self, block: Array) -> None:
        keep = 1 - 1 / np.array(HORIZONS)[:, None]
        weights = keep ** np.arange(self._size - 1, -1, -1) * (1 - keep)
        self._means = keep**self._size * self._means + weights @ block
        self._block, self._filled = [], 0

    def _turn(self) -> None:
        self._along = self._precision @ self._means.T
        along = _project(self._reference, np.ascontiguousarray(self._along.T, np.float32))
        self._ranks = Ranks([list(along)], self._strata, self._number)
