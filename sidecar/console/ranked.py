"""How much channels rise and fall together, told from sums over many requests at a time."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_DEPENDENCE = 1.5
"""Each pane is in two differences, whose correlation of -1/2 makes n of them tell what n / 1.5 would."""


def differences(means: Floats, requests: Floats) -> Floats:
    """float64[n - 1, C] from float64[n, C] and [n]: each mean less the one before, for equal sampling error.

    Of requests that do not depend on each other two channels' differences have the correlation that the requests have,
    and what changes slowly is not in them.
    """
    error = np.sqrt(1 / requests[1:] + 1 / requests[:-1])
    scaled: Floats = np.diff(means, axis=0) / error[:, None]
    return scaled


def correlation(series: Floats, channels: list[int]) -> Floats:
    """float64[k, C] between the k channels and all, of series float64[n, C]; NaN with one that does not vary.

    By ranks, so that a few panes in which everything changed do not decide: 2 sin(pi r / 6) of Spearman's r is what
    Pearson's would be of Gaussians (Pearson 1907).
    """
    # Sorting is several times quicker along contiguous memory.
    found = ranks(np.ascontiguousarray(series.T))
    found -= found.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        found /= np.sqrt(np.einsum("cn,cn->c", found, found))[:, None]
        between: Floats = 2 * np.sin(np.pi / 6 * np.clip(found[channels] @ found.T, -1, 1))
    return between


def chance(pairs: int, others: int = 0) -> float:
    """Standard error of the correlation of two channels that have none, from so many differences; at most 1.

    others: instead, what the largest of so many such correlations passes once in a hundred times.
    """
    quantile = NormalDist().inv_cdf(1 - 0.01 / others) if others else 1.0
    known = pairs / _DEPENDENCE - 1
    if known <= quantile**2:
        return 1.0
    return 2 * math.sin(math.pi / 6 * quantile / math.sqrt(known))


def ranks(values: Floats) -> Floats:
    """float64[C, n] along the last axis from 0; equal values share the mean of theirs."""
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    place = np.arange(values.shape[1], dtype=np.float64)
    differs = ordered[:, 1:] != ordered[:, :-1]
    edge = np.ones((len(values), 1), dtype=np.bool_)
    first = np.maximum.accumulate(np.where(np.hstack([edge, differs]), place, 0.0), axis=1)
    ends = np.where(np.hstack([differs, edge]), place, math.inf)
    last = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    found = np.empty(values.shape)
    np.put_along_axis(found, order, (first + last) / 2, axis=1)
    return found
