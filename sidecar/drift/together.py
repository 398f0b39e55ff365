"""All taps as one layer more: small shifts that every layer shares, and combinations that no single layer shows."""

from __future__ import annotations

import math

import numpy as np

from sidecar.drift.ranks import Array, Integers, Ranks
from sidecar.drift.scores import FEATURES, SCORES, flat
from sidecar.drift.whitening import Whitened, ledoit_wolf, measure

_EACH = 1 + len(FEATURES)
"""Scores of a tap that `flat` keeps: the distance and the features."""


class Together:
    """The scores of a tap, made of the normal scores of all taps.

    `distance`: the Mahalanobis distance of all scores that have a direction, the output's included. Each feature: how
    far it moved in all taps by as much, estimated by generalised least squares (Aitken 1935), so that taps which repeat
    each other count once; `channel_means`: the same of these distances. Covariances come from every fourth request of
    the reference and ranks from the others, as at a tap.

    kinds: how many scores there are. sizes: see `Ranks.sizes`.
    """

    def __init__(self, fitted: Array, others: Array, strata: Integers, number: int, taps: int) -> None:
        """fitted, others: float64[n, layers, scores], normal scores of two parts of the reference, taps first.

        strata: int64[n] of the others, below `number`; see `Ranks`.
        """
        self._taps = taps
        directed = flat(fitted)
        whitened = Whitened.fit(directed, ledoit_wolf)
        precision = whitened.matrix @ whitened.matrix.T
        # Half the bytes to go through for every request.
        self._centre, self._matrix = whitened.centre.astype(np.float32), whitened.matrix.astype(np.float32)
        shared = np.zeros((directed.shape[1], len(FEATURES)))
        for feature in range(len(FEATURES)):
            shared[1 + feature + _EACH * np.arange(taps), feature] = 1.0
        self._features = precision @ shared
        self._means = np.zeros(0)
        if fitted.shape[2] == len(SCORES):
            means = Whitened.fit(np.nan_to_num(fitted[:, :taps, -1]), ledoit_wolf)
            self._means = means.matrix @ means.matrix.T.sum(axis=1)
        self.kinds = _EACH + bool(len(self._means))
        self._ranks = Ranks([list(self._scores(others).T)], strata, number)
        self.sizes = self._ranks.sizes
        # Requests of the reference were ranked among themselves: of each of D scores its mean is 0 by that, where it is
        # off by 1 / sqrt(m) for others, which puts these 2 D / m further out, of a spread of sqrt(2 D).
        requests = max(len(fitted) + len(others), 1)
        self._pull = np.append(math.sqrt(2 * directed.shape[1]) / requests, np.zeros(self.kinds - 1))

    def normal_scores(self, z: Array, strata: Integers, rng: np.random.Generator) -> Array:
        """float64[n, 1, kinds] of z, float64[n, layers, scores]."""
        along: Array = self._ranks.normal_scores(self._scores(z)[None], strata, rng) - self._pull
        return along

    def _scores(self, z: Array) -> Array:
        directed = flat(z)
        distance = np.empty((1, len(z)))
        measure(directed.astype(np.float32)[None], self._centre[None], self._matrix[None], distance)
        parts = [distance.T, directed @ self._features]
        if len(self._means):
            parts.append((np.nan_to_num(z[:, : self._taps, -1]) @ self._means)[:, None])
        return np.concatenate(parts, axis=1)
