"""How strange is a request? Nonconformity scores at every tap and at the output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from sidecar.drift.ranks import Integers, Ranks
from sidecar.drift.whitening import Whitened, finite, ledoit_wolf, measure, ridge
from sidecar.sketch import ROW_STATISTICS, OutputRows, RequestRows
from sidecar.types import Tap

Array = npt.NDArray[np.float64]

FEATURES = ("mean", "log_rms", "log_absmax", "near_zero_share", "log_kurtosis")
SCORES = ("distance", *FEATURES, "channel_means")
"""The last one only at taps whose projections are known."""

_MEANS = len(SCORES) - 1
OUTPUT_SCORES = ("distance", "energy", "margin")

FIT_STRIDE = 4

_NONFINITE = ROW_STATISTICS.index("nonfinite")
_TINY = 1e-30
_HUGE = 1e30


def stack_rows(rows: Mapping[Tap, RequestRows], taps: Sequence[Tap]) -> Array:
    """Rows as one array, float64[taps, n, 6]; a tap that brought none has NaN throughout."""
    brought = _brought(rows, taps)
    absent = np.full((_requests(rows), len(ROW_STATISTICS)), np.nan)
    return _stacked([absent if part is None else part.values for part in brought], absent)


def stack_projections(rows: Mapping[Tap, RequestRows], taps: Sequence[Tap]) -> npt.NDArray[np.float32]:
    """Projections as one array, float32[taps, n, p]; a tap that brought none has NaN throughout."""
    brought = _brought(rows, taps)
    width = max((part.projections.shape[1] for part in brought if part is not None), default=0)
    absent = np.full((_requests(rows), width), np.nan, np.float32)
    return _stacked([absent if part is None else part.projected(width) for part in brought], absent)


def _brought(rows: Mapping[Tap, RequestRows], taps: Sequence[Tap]) -> list[RequestRows | None]:
    """Of each tap. To see that all are there in order takes a tenth of the time of looking each up."""
    return list(rows.values()) if tuple(rows) == tuple(taps) else [rows.get(tap) for tap in taps]


def _requests(rows: Mapping[Tap, RequestRows]) -> int:
    return len(next(iter(rows.values()), ()))


def _stacked(parts: list[npt.NDArray[Any]], absent: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[taps, *one part]. By a concatenation, which takes a third of the time of a stack of small parts."""
    return np.concatenate([absent[:0], *parts]).reshape(len(parts), *absent.shape)


class Scorer:
    """Scores requests against those of a reference, and says where the scores stand among theirs.

    A layer for each tap, and one more for the output where the reference has what a classifier answered.
    `distance` is a Mahalanobis distance, strange when large, of the five features at a tap and of the logits at
    the output; `channel_means` is one too, in the tap's `MeanSpace`.
    The other scores are strange in either direction: at a tap the features themselves, at the
    output energy and margin. Centre and covariance of the distance come from every fourth reference request and its
    ranks from the others: a request that took part in the fit lies nearer to it than a new one, which would
    make new requests look strange without any drift.
    """

    def __init__(
        self,
        rows: Array,
        outputs: OutputRows | None = None,
        strata: Integers | None = None,
        number: int = 1,
        distances: Array | None = None,
    ) -> None:
        """rows: float64[taps, n, 6] of the reference, outputs, strata and distances: of the same requests.

        strata: int64[n], below `number`; see `Ranks`. distances: float64[taps, n] in the `MeanSpace` that every fourth
        of them made, NaN where a tap has none.
        """
        requests = rows.shape[1]
        strata = np.zeros(requests, dtype=np.int64) if strata is None else strata
        part = slice(None, None, FIT_STRIDE)
        described = features(rows)
        unbroken = np.where(_broken(rows)[..., None], np.nan, described)
        at_taps = [Whitened.fit(tap, ridge) for tap in unbroken[:, part]]
        self._centres = np.stack([whitened.centre for whitened in at_taps])
        self._matrices = np.stack([whitened.matrix for whitened in at_taps])
        self._at_output = Whitened.fit(finite(outputs.logits)[part], ledoit_wolf) if outputs else None
        alone: npt.NDArray[np.bool_] = np.ones(len(rows), dtype=np.bool_)
        if distances is not None:
            alone = np.asarray(np.isnan(distances).all(axis=1))
        self._projected = ~alone
        self._width = len(SCORES) - int(alone.all())
        scores = self._scores(rows, outputs, distances)
        scores[:, part, 0] = np.nan
        scores[:, part, _MEANS:] = np.nan
        kinds = [len(SCORES) - missing for missing in alone.astype(int).tolist()] + [len(OUTPUT_SCORES)] * (
            outputs is not None
        )
        self.kinds: tuple[int, ...] = tuple(kinds)
        self.ranks = Ranks([list(layer.T) for layer in scores], strata, number)

    def normal_scores(
        self,
        rows: Array,
        outputs: OutputRows | None,
        strata: Integers | None,
        rng: np.random.Generator,
        distances: Array | None = None,
    ) -> Array:
        """float64[n, layers, 7], see `Ranks.normal_scores`; NaN where a request did not reach a layer.

        Six wide where no tap has distances.
        """
        strata = np.zeros(rows.shape[1], dtype=np.int64) if strata is None else strata
        return self.ranks.normal_scores(self._scores(rows, outputs, distances), strata, rng)

    def _scores(self, rows: Array, outputs: OutputRows | None, distances: Array | None) -> Array:
        """float64[layers, n, width]; the output has three, and NaN in place of the others."""
        described = features(rows)
        taps, requests, _ = described.shape
        scores = np.full((taps + (self._at_output is not None), requests, self._width), np.nan)
        distance = np.empty((taps, requests))
        measure(described, self._centres, self._matrices, distance)
        scores[:taps, :, 0] = distance
        scores[:taps, :, 1:_MEANS] = described
        if self._projected.any() and distances is not None:
            scores[:taps, :, _MEANS] = distances
        scores[:taps][_broken(rows)] = np.inf
        scores[:taps][~self._projected, :, _MEANS:] = np.nan
        if self._at_output and outputs:
            strange = np.isinf(outputs.energy)
            scores[taps, :, 0] = self._at_output.distance(finite(outputs.logits))
            scores[taps, :, 1], scores[taps, :, 2] = outputs.energy, outputs.margin
            scores[taps, strange, : len(OUTPUT_SCORES)] = np.inf
        return scores


def flat(z: Array) -> Array:
    """float64[n, layers, scores] -> [n, layers * 6], of all but `channel_means`; what says nothing is in the middle.

    A distance is no direction, and one more score a tap would make the direction dearer by a sixth.
    """
    directed = z[..., :_MEANS]
    flat = directed.reshape(len(z), math.prod(directed.shape[1:]))
    return np.where(np.isnan(flat), 0.0, flat)


def features(rows: Array) -> Array:
    """float64[taps, n, 5] of float64[taps, n, 6], or without the first axis of both.

    Logarithms, because scales vary by ratios; finite for every request that came.
    """
    described = np.empty((*rows.shape[:-1], len(FEATURES)))
    _describe(rows.reshape(-1, len(ROW_STATISTICS)), described.reshape(-1, len(FEATURES)))
    return described


@njit(cache=True, nogil=True)
def _describe(rows: Array, described: Array) -> None:
    for i in range(len(rows)):
        if np.isnan(rows[i, _NONFINITE]):
            described[i] = np.nan
            continue
        described[i, 0] = rows[i, 0]
        for scale in (1, 2):
            described[i, scale] = math.log(_TINY if rows[i, scale] < _TINY else rows[i, scale])
        described[i, 3] = rows[i, 3]
        # Values that do not vary have no kurtosis; 1 is the least there is.
        kurtosis = min(rows[i, 4], _HUGE) if rows[i, 4] > 1.0 else 1.0
        described[i, 4] = math.log(kurtosis)


def _broken(rows: Array) -> npt.NDArray[np.bool_]:
    """Requests with NaN or infinite values: whatever their other values say, nothing is stranger."""
    return np.greater(rows[..., _NONFINITE], 0)
