"""Where a request stands among those of the reference: conformal p-values, as standard normal scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

EVERYONE = 0
"""Number of the stratum that all reference requests belong to, by which a request of no other one is judged."""

_LEAST_P = 1e-12
_FURTHEST = 28.0
_STEPS_PER_NAT = 200


@cache
def _normal_table() -> Array:
    """Standard normal quantiles at even steps of the log odds; linear between them to 1e-6."""
    normal = NormalDist()
    log_odds = np.linspace(-_FURTHEST, _FURTHEST, round(2 * _FURTHEST * _STEPS_PER_NAT) + 1)
    return np.array([normal.inv_cdf(1 / (1 + math.exp(-step))) for step in log_odds])


@njit(cache=True, nogil=True)
def _normal_score(p: float, table: Array) -> float:
    p = min(max(p, _LEAST_P), 1 - _LEAST_P)
    place = (math.log1p(-p) - math.log(p) + _FURTHEST) * _STEPS_PER_NAT
    step = int(place)
    # The table reaches beyond what a p of _LEAST_P needs, so there is a next step.
    return float(table[step] + (place - step) * (table[step + 1] - table[step]))


@njit(cache=True, nogil=True)
def _count(ordered: Array, first: int, value: float, equal: bool) -> int:
    """How many of the sorted values are less than `value`, or `equal` to it; at least `first` are."""
    last = len(ordered)
    while first < last:
        middle = (first + last) // 2
        if ordered[middle] < value or (equal and ordered[middle] == value):
            first = middle + 1
        else:
            last = middle
    return first


# Compiled, because it runs for every observed request; without the GIL, because requests are served meanwhile.
@njit(cache=True, nogil=True)
def _stand(
    scores: Array, strata: Integers, ordered: Array, starts: Integers, uniform: Array, table: Array, z: Array
) -> None:
    """z[n, layers, kinds] of scores[layers, n, kinds] among ordered[starts[stratum, layer, kind]:starts[... + 1]]."""
    layers, requests, kinds = scores.shape
    for layer in range(layers):
        for kind in range(kinds):
            for request in range(requests):
                value = scores[layer, request, kind]
                if np.isnan(value):
                    z[request, layer, kind] = np.nan
                    continue
                cell = (strata[request] * layers + layer) * kinds + kind
                among = ordered[starts[cell] : starts[cell + 1]]
                below = _count(among, 0, value, False)
                equal = 0
                # Ties are rare where scores are continuous, so most of a second search is spared.
                if below < len(among) and among[below] == value:
                    equal = _count(among, below, value, True) - below
                greater = len(among) - below - equal
                p = (greater + uniform[request, layer, kind] * (equal + 1)) / (len(among) + 1)
                z[request, layer, kind] = _normal_score(p, table)


class Ranks:
    """The sorted scores of a reference, by stratum.

    sizes: int64[strata, layers], of how many requests the scores of a layer are, at the least; 0 for a layer that no
    request reached.
    """

    def __init__(self, scores: Sequence[Sequence[Array]], strata: Integers, number: int) -> None:
        """scores[layer][kind]: float64[m], NaN where a request has none or takes no part.

        strata: int64[m], the stratum of each, below `number`; all of them belong to EVERYONE besides.
        """
        parts: list[Array] = []
        sizes = []
        for stratum in range(number):
            inside = slice(None) if stratum == EVERYONE else strata == stratum
            for kinds in scores:
                kept = [np.sort(kind[inside][~np.isnan(kind[inside])]) for kind in kinds]
                sizes.append(min((len(kind) for kind in kept if len(kind)), default=0))
                parts.extend(kept)
        self.sizes: Integers = np.array(sizes, dtype=np.int64).reshape(number, len(scores))
        self._ordered = np.concatenate(parts)
        self._starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])

    def normal_scores(self, scores: Array, strata: Integers, rng: np.random.Generator) -> Array:
        """Standard normal quantiles of 1 - p, float64[n, layers, kinds], large where a score is; NaN where it is.

        scores: float64[layers, n, kinds]. strata: int64[n].
        p = (greater + u (equal + 1)) / (m + 1) with u uniform, among the m reference requests of the same stratum:
        exactly uniform for a request that is exchangeable with them, ties included, whatever the mix of strata is.
        Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005, sections 2.3 and 4.5.
        """
        layers, requests, kinds = scores.shape
        z = np.empty((requests, layers, kinds))
        uniform = rng.random(z.shape)
        _stand(scores, strata, self._ordered, self._starts, uniform, _normal_table(), z)
        return z


@njit(cache=True, nogil=True)
def _each_normal_score(p: Array, table: Array, z: Array) -> None:
    for index in range(len(p)):
        z[index] = np.nan if np.isnan(p[index]) else _normal_score(p[index], table)


def normal_scores(p: Array) -> Array:
    """Standard normal quantile of 1 - p, of any shape; p within 0..1, NaN stays NaN."""
    z = np.empty(p.size)
    _each_normal_score(np.ascontiguousarray(p, dtype=np.float64).reshape(-1), _normal_table(), z)
    return z.reshape(p.shape)
