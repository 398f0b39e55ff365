"""How strange is a request? Nonconformity scores at every tap and at the output."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidecar.drift.ranks import Integers, Ranks
from sidecar.sketch import ROW_STATISTICS, OutputRows, RequestRows
from sidecar.types import Tap

Array = npt.NDArray[np.float64]

FEATURES = ("mean", "log_rms", "log_absmax", "near_zero_share", "log_kurtosis")
SCORES = ("distance", *FEATURES)
OUTPUT_SCORES = ("distance", "energy", "margin")

_FIT_STRIDE = 4
_TINY = 1e-30
_HUGE = 1e30
_RELATIVE_NOISE = 1e-6
_LEAST_SHRINKAGE = 1e-6


def stack_rows(rows: Mapping[Tap, RequestRows], taps: Sequence[Tap]) -> Array:
    """Rows as one array, float64[taps, n, 6]; a tap that brought none has NaN throughout."""
    requests = max((len(part) for part in rows.values()), default=0)
    stacked = np.full((len(taps), requests, len(ROW_STATISTICS)), np.nan)
    for index, tap in enumerate(taps):
        if tap in rows:
            stacked[index] = rows[tap].values
    return stacked


class Scorer:
    """Scores requests against those of a reference, and says where the scores stand among theirs.

    A layer for each tap, and one more for the output where the reference has what a classifier answered.
    `distance` is a Mahalanobis distance, strange when large, of the five features at a tap and of the logits at
    the output. The other scores are strange in either direction: at a tap the features themselves, at the
    output energy and margin. Centre and covariance of the distance come from every fourth reference request and its
    ranks from the others: a request that took part in the fit lies nearer to it than a new one, which would
    make new requests look strange without any drift.
    """

    def __init__(
        self, rows: Array, outputs: OutputRows | None = None, strata: Integers | None = None, number: int = 1
    ) -> None:
        """rows: float64[taps, n, 6] of the reference, outputs and strata: of the same requests.

        strata: int64[n], below `number`; see `Ranks`.
        """
        requests = rows.shape[1]
        strata = np.zeros(requests, dtype=np.int64) if strata is None else strata
        part = slice(None, None, _FIT_STRIDE)
        described = features(rows)
        unbroken = np.where(_broken(rows)[..., None], np.nan, described)
        at_taps = [_Whitened.fit(tap, _ridge) for tap in unbroken[:, part]]
        self._centres = np.stack([whitened.centre for whitened in at_taps])
        self._matrices = np.stack([whitened.matrix for whitened in at_taps])
        self._at_output = _Whitened.fit(_finite(outputs.logits)[part], ledoit_wolf) if outputs else None
        scores = self._scores(rows, outputs)
        everything = scores.copy()
        scores[:, part, 0] = np.nan
        kinds = [len(SCORES)] * len(rows) + [len(OUTPUT_SCORES)] * (outputs is not None)
        self.kinds: tuple[int, ...] = tuple(kinds)
        self.ranks = Ranks([list(layer.T) for layer in scores], strata, number)
        z = flat(self.ranks.normal_scores(everything, strata, np.random.default_rng(0)))
        held_out = np.arange(requests) % _FIT_STRIDE != 0
        self.covariance = ledoit_wolf(z[part] - z[part].mean(axis=0))
        self.reference = z[held_out]
        self.reference_strata = strata[held_out]

    def normal_scores(
        self, rows: Array, outputs: OutputRows | None, strata: Integers | None, rng: np.random.Generator
    ) -> Array:
        """float64[n, layers, 6], see `Ranks.normal_scores`; NaN where a request did not reach a layer."""
        strata = np.zeros(rows.shape[1], dtype=np.int64) if strata is None else strata
        return self.ranks.normal_scores(self._scores(rows, outputs), strata, rng)

    def _scores(self, rows: Array, outputs: OutputRows | None) -> Array:
        """float64[layers, n, 6]; the output has three, and NaN in place of the others."""
        described = features(rows)
        taps, requests, _ = described.shape
        scores = np.full((taps + (self._at_output is not None), requests, len(SCORES)), np.nan)
        white = (described - self._centres[:, None]) @ self._matrices
        scores[:taps, :, 0] = np.sqrt(np.einsum("tnf,tnf->tn", white, white))
        scores[:taps, :, 1:] = described
        scores[:taps][_broken(rows)] = np.inf
        if self._at_output and outputs:
            strange = np.isinf(outputs.energy)
            scores[taps, :, 0] = self._at_output.distance(_finite(outputs.logits))
            scores[taps, :, 1], scores[taps, :, 2] = outputs.energy, outputs.margin
            scores[taps, strange, : len(OUTPUT_SCORES)] = np.inf
        return scores


def flat(z: Array) -> Array:
    """float64[n, layers, scores] -> [n, layers * scores]; what says nothing is in the middle."""
    flat = z.reshape(len(z), math.prod(z.shape[1:]))
    return np.where(np.isnan(flat), 0.0, flat)


def _finite(values: Array) -> Array:
    """NaN for rows that are not finite throughout."""
    return np.where(np.isfinite(values).all(axis=1, keepdims=True), values, np.nan)


def features(rows: Array) -> Array:
    """float64[taps, n, 5]. Logarithms, because scales vary by ratios; finite for every request that came."""
    mean, rms, absmax, near_zero, kurtosis, nonfinite = np.moveaxis(rows, -1, 0)
    described = np.stack(
        [
            mean,
            np.log(np.maximum(rms, _TINY)),
            np.log(np.maximum(absmax, _TINY)),
            near_zero,
            # Values that do not vary have no kurtosis; 1 is the least there is.
            np.log(np.clip(np.nan_to_num(kurtosis, nan=1.0, posinf=_HUGE), 1.0, _HUGE)),
        ],
        axis=-1,
    )
    described[np.isnan(nonfinite)] = np.nan
    return described


def _broken(rows: Array) -> npt.NDArray[np.bool_]:
    """Requests with NaN or infinite values: whatever their other values say, nothing is stranger."""
    return np.greater(rows[..., ROW_STATISTICS.index("nonfinite")], 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Whitened:
    """centre: float64[p]. matrix: float64[p, p], makes vectors less the centre white."""

    centre: Array
    matrix: Array

    @classmethod
    def fit(cls, vectors: Array, shrink: Callable[[Array], Array]) -> _Whitened:
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


def _ridge(standard: Array) -> Array:
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
