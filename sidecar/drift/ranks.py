"""Where a request stands among those of the reference: conformal p-values, as standard normal scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

EVERYONE = 0
"""Number of the stratum that all reference requests belong to, by which a request of no other one is judged."""

_LEAST_P = 1e-12


@njit(cache=True, nogil=True)
def _normal_score(p: float) -> float:
    """Standard normal quantile of 1 - p, to 1e-6. Wichura, Algorithm AS 241 (PPND7), Applied Statistics 37, 1988."""
    p = min(max(p, _LEAST_P), 1 - _LEAST_P)
    q = 0.5 - p
    if abs(q) <= 0.425:
        r = 0.180625 - q * q
        above = ((59.10937472 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179
        return q * above / (((67.1875636 * r + 78.757757664) * r + 17.895169469) * r + 1.0)
    r = math.sqrt(-math.log(min(p, 1 - p)))
    if r <= 5:
        r -= 1.6
        above = ((0.17023821103 * r + 1.3067284816) * r + 2.75681539) * r + 1.4234372777
        z = above / ((0.12021132975 * r + 0.7370016425) * r + 1.0)
    else:
        r -= 5
        above = ((0.017337203997 * r + 0.42868294337) * r + 3.0812263860) * r + 6.657905115
        z = above / ((0.012258202635 * r + 0.24197894225) * r + 1.0)
    return z if q > 0 else -z


@njit(cache=True, nogil=True)
def _upto(ordered: npt.NDArray[np.float32], first: int, last: int, value: float) -> int:
    """Where in ordered[first:last], of which none is less than `value`, the first greater one is."""
    while first < last:
        middle = (first + last) // 2
        if ordered[middle] <= value:
            first = middle + 1
        else:
            last = middle
    return first


# Compiled, because it runs for every observed request; without the GIL, because requests are served meanwhile.
@njit(cache=True, nogil=True)
def _stand(
    scores: Array, strata: Integers, ordered: npt.NDArray[np.float32], starts: Integers, uniform: Array, z: Array
) -> None:  # fmt: skip
    """z[n, layers, kinds] of scores[layers, n, kinds] among ordered[starts[stratum, layer, kind]:starts[... + 1]]."""
    layers, requests, kinds = scores.shape
    all_of_layer = requests * kinds
    first, size = np.empty(all_of_layer, np.int64), np.empty(all_of_layer, np.int64)
    value = np.empty(all_of_layer, np.float32)
    for layer in range(layers):
        longest = 0
        for request in range(requests):
            for kind in range(kinds):
                cell = (strata[request] * layers + layer) * kinds + kind
                i = request * kinds + kind
                first[i], size[i] = starts[cell], starts[cell + 1] - starts[cell]
                value[i] = scores[layer, request, kind]
                longest = max(longest, size[i])
        # All searches of a layer take each step together and without a branch: one alone waits for memory.
        while longest > 1:
            for i in range(all_of_layer):
                half = size[i] // 2
                first[i] += half * (ordered[first[i] + half - 1] < value[i])
                size[i] -= half
            longest -= longest // 2
        for request in range(requests):
            for kind in range(kinds):
                i = request * kinds + kind
                if np.isnan(value[i]):
                    z[request, layer, kind] = np.nan
                    continue
                cell = (strata[request] * layers + layer) * kinds + kind
                at, last = first[i], starts[cell + 1]
                at += size[i] == 1 and ordered[at] < value[i]
                # Ties are rare where scores are continuous, so most of a second search is spared.
                beyond = at
                if at < last and ordered[at] == value[i]:
                    beyond = _upto(ordered, at, last, value[i])
                p = (last - beyond + uniform[request, layer, kind] * (beyond - at + 1)) / (
                    last - starts[cell] + 1
                )
                z[request, layer, kind] = _normal_score(p)


class Ranks:
    """The sorted scores of a reference, by stratum.

    sizes: int64[strata, layers], of how many requests the scores of a layer are, at the least; 0 for a layer that no
    request reached.
    """

    def __init__(self, scores: Sequence[Sequence[Array]], strata: Integers, number: int) -> None:
        """scores[layer][kind]: float64[m], NaN where a request has none or takes no part.

        strata: int64[m], the stratum of each, below `number`; all of them belong to EVERYONE besides.
        """
        parts: list[npt.NDArray[np.float32]] = []
        sizes = []
        # What float32 cannot tell apart is a tie, for requests of the reference and new ones alike.
        with np.errstate(over="ignore"):
            layers = [[kind.astype(np.float32) for kind in kinds] for kinds in scores]
        for stratum in range(number):
            inside = slice(None) if stratum == EVERYONE else strata == stratum
            for kinds in layers:
                kept = [np.sort(kind[inside][~np.isnan(kind[inside])]) for kind in kinds]
                sizes.append(min((len(kind) for kind in kept if len(kind)), default=0))
                parts.extend(kept)
        self.sizes: Integers = np.array(sizes, dtype=np.int64).reshape(number, len(scores))
        # A search of nothing may look at one place.
        self._ordered = np.concatenate([*parts, np.zeros(1, np.float32)])
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
        _stand(scores, strata, self._ordered, self._starts, rng.random(z.shape), z)
        return z


@njit(cache=True, nogil=True)
def _each_normal_score(p: Array, z: Array) -> None:
    for index in range(len(p)):
        z[index] = np.nan if np.isnan(p[index]) else _normal_score(p[index])


def normal_scores(p: Array) -> Array:
    """Standard normal quantile of 1 - p, of any shape; p within 0..1, NaN stays NaN."""
    z = np.empty(p.size)
    _each_normal_score(np.ascontiguousarray(p, dtype=np.float64).reshape(-1), z)
    return z.reshape(p.shape)
