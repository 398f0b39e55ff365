"""Ours and the others, each as a statistic after every request that alarms at a level of its own.

The others see windows of the newest requests; `WINDOWS` are tried for each, and the best counts. `columns` are the
numbers that our scores are made of, of all requests there are; traffic is a series of their row numbers.
"""

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numba import njit

from sidecar.drift.judge import Judge
from tests.bench.drift_tasks import Recorded

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

WINDOWS = {
    "KS, Bonferroni": (25, 50, 100, 200, 500),
    "PSI": (50, 100, 200, 500),
    "online MMD": (10, 25, 50, 100, 200),
    "Evidently": (100, 200, 500),
}
DEFAULTS = {"PSI": 0.2, "Evidently": 0.1}
"""Levels that people use; all are compared at equal rates of false alarms instead."""


class Detector(Protocol):
    def course(self, traffic: Index, rng: np.random.Generator) -> Array:
        """After each request what is compared with the level, -inf where nothing is decided; from a fresh start."""


class Ours:
    """The model's R. Infinite from the first NaN or infinite value on, whose counter alerts without statistics."""

    def __init__(self, recorded: Recorded, reference: Index, *, counter: bool = True) -> None:
        self._counter = counter
        self._recorded, past = recorded, recorded.of(reference)
        self._space = recorded.space(reference)
        distances = self._space.distances(past.projections)
        # The run length bounds R only far above what alarms here.
        self._judge = Judge(
            past.rows, past.outputs, np.zeros(len(past), np.int64), 1, run_length=1e9, distances=distances
        )
        self._fresh = {name: part.copy() for name, part in self._judge.state().items()}

    def follow(self, recorded: Recorded) -> "Ours":
        """The same reference, for traffic of other requests."""
        self._recorded = recorded
        return self

    def course(self, traffic: Index, rng: np.random.Generator) -> Array:
        self._judge.resume(self._fresh)
        seen = self._recorded.of(traffic)
        distances = self._space.distances(seen.projections)
        evidence = self._judge.update(seen.rows, seen.outputs, np.zeros(len(seen), np.int64), rng, distances)
        counted = np.cumsum(seen.broken) > 0
        return np.where(counted & self._counter, np.inf, evidence)


class KolmogorovSmirnov:
    """Largest two-sample statistic of all columns. Equal sizes make Bonferroni's p-value a function of it."""

    def __init__(self, columns: Array, reference: Index, window: int) -> None:
        self._columns, self._window = columns, window
        self._ordered = np.sort(columns[reference], axis=0).T.copy()

    def course(self, traffic: Index, rng: np.random.Generator) -> Array:
        return _windowed(
            _largest_ks(self._columns[traffic], self._ordered, self._window), len(traffic), self._window
        )


@njit(cache=True, nogil=True)
def _largest_ks(values: Array, ordered: Array, window: int) -> Array:
    found = np.zeros(len(values) // window)
    for w in range(len(found)):
        for column in range(values.shape[1]):
            past = ordered[column]
            seen = np.sort(values[w * window : (w + 1) * window, column])
            for i in range(window):
                first = last = np.searchsorted(past, seen[i])
                if first < len(past) and past[first] == seen[i]:
                    last = first + np.searchsorted(past[first:], seen[i], side="right")
                below, upto = first / len(past), last / len(past)
                # Ties in the window: only where a run of equal values begins and ends.
                if i == 0 or seen[i - 1] < seen[i]:
                    found[w] = max(found[w], abs(below - i / window))
                if i == window - 1 or seen[i + 1] > seen[i]:
                    found[w] = max(found[w], abs(upto - (i + 1) / window))
    return found


class PopulationStability:
    """Largest PSI of all columns, ten bins of equal mass in the reference."""

    BINS = 10

    def __init__(self, columns: Array, reference: Index, window: int) -> None:
        self._columns, self._window = columns, window
        self._edges = np.quantile(columns[reference], np.arange(1, self.BINS) / self.BINS, axis=0).T.copy()
        counts = [
            np.bincount(np.searchsorted(edges, past), minlength=self.BINS)
            for edges, past in zip(self._edges, columns[reference].T, strict=True)
        ]
        self._shares = (np.array(counts) + 0.5) / (len(reference) + 0.5 * self.BINS)

    def course(self, traffic: Index, rng: np.random.Generator) -> Array:
        seen = _largest_psi(self._columns[traffic], self._edges, self._shares, self._window)
        return _windowed(seen, len(traffic), self._window)


@njit(cache=True, nogil=True)
def _largest_psi(values: Array, edges: Array, shares: Array, window: int) -> Array:
    found = np.zeros(len(values) // window)
    bins = shares.shape[1]
    for w in range(len(found)):
        for column in range(values.shape[1]):
            counts = np.full(bins, 0.5)
            for i in range(w * window, (w + 1) * window):
                counts[np.searchsorted(edges[column], values[i, column])] += 1
            psi = 0.0
            for b in range(bins):
                share = counts[b] / (window + 0.5 * bins)
                psi += (share - shares[column, b]) * math.log(share / shares[column, b])
            found[w] = max(found[w], psi)
    return found


class Evidently:
    """The distance of the column in the middle: at 0.1 half of the columns have drifted, its default for a data set.

    Of each column Wasserstein-1 over the reference's standard deviation, its default above 1,000 reference rows.
    """

    def __init__(self, columns: Array, reference: Index, window: int) -> None:
        self._columns, self._window = columns, window
        self._ordered = np.sort(columns[reference], axis=0).T.copy()
        self._spread = np.maximum(columns[reference].std(axis=0), 1e-12)

    def course(self, traffic: Index, rng: np.random.Generator) -> Array:
        distances = _wasserstein(self._columns[traffic], self._ordered, self._spread, self._window)
        drifted = math.ceil(distances.shape[1] / 2)
        return _windowed(np.sort(distances, axis=1)[:, -drifted], len(traffic), self._window)


@njit(cache=True, nogil=True)
def _wasserstein(values: Array, ordered: Array, spread: Array, window: int) -> Array:
    found = np.zeros((len(values) // window, values.shape[1]))
    past = ordered.shape[1]
    for w in range(len(found)):
        for column in range(values.shape[1]):
            seen = np.sort(values[w * window : (w + 1) * window, column])
            total = 0.0
            for i in range(past):
                total += abs(ordered[column, i] - seen[i * window // past])
            found[w, column] = total / past / spread[column]
    return found


class OnlineMmd:
    """The unbiased estimate of MMD^2 between the reference and the newest requests, after each of them.

    Gaussian kernel, its bandwidth the median distance in the reference, as alibi-detect's MMDDriftOnline (Cobb, Van
    Looveren, Klaise 2022).
    """

    def __init__(self, columns: Array, reference: Index, window: int) -> None:
        spread = np.maximum(columns[reference].std(axis=0), 1e-12)
        scaled = np.clip(columns / spread, -1e6, 1e6)
        squared = (scaled**2).sum(axis=1)
        distances = np.maximum(squared[:, None] + squared - 2 * scaled @ scaled.T, 0)
        among = distances[np.ix_(reference[:500], reference[:500])]
        self._kernel = np.exp(-distances / np.median(among[among > 0]))
        counts = np.bincount(reference, minlength=len(columns)) / len(reference)
        self._past = self._kernel @ counts
        # References differ in it, and one level is for all.
        requests = len(reference)
        self._within = (requests * counts @ self._past - 1) / (requests - 1)
        self._window = window

    def course(self, traffic: Index, rng: np.random.Generator) -> Array:
        return self._within + _sliding_mmd(traffic, self._kernel, self._past, self._window)


@njit(cache=True, nogil=True)
def _sliding_mmd(traffic: Index, kernel: Array, past: Array, window: int) -> Array:
    found = np.full(len(traffic), -np.inf)
    pairs = across = 0.0
    for t in range(len(traffic)):
        if t >= window:
            gone = traffic[t - window]
            across -= past[gone]
            for i in range(t - window + 1, t):
                pairs -= kernel[gone, traffic[i]]
        for i in range(max(t - window + 1, 0), t):
            pairs += kernel[traffic[t], traffic[i]]
        across += past[traffic[t]]
        if t >= window - 1:
            found[t] = 2 * pairs / (window * (window - 1)) - 2 * across / window
    return found


def _windowed(decided: Array, requests: int, window: int) -> Array:
    """What is decided at the end of each window, -inf elsewhere."""
    course = np.full(requests, -np.inf)
    course[window - 1 :: window][: len(decided)] = decided
    return course


PEERS: dict[str, Any] = {
    "KS, Bonferroni": KolmogorovSmirnov,
    "PSI": PopulationStability,
    "online MMD": OnlineMmd,
    "Evidently": Evidently,
}
