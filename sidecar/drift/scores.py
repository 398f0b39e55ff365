"""How strange is a request at a tap? Nonconformity scores and their conformal p-values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sidecar.sketch import ROW_STATISTICS, RequestRows
from sidecar.types import Tap

Array = npt.NDArray[np.float64]

FEATURES = ("mean", "log_rms", "log_absmax", "near_zero_share", "log_kurtosis")
SCORES = ("distance", *FEATURES)

_FIT_STRIDE = 4
_TINY = 1e-30
_HUGE = 1e30
_RELATIVE_NOISE = 1e-6


def stack_rows(rows: Mapping[Tap, RequestRows], taps: Sequence[Tap]) -> Array:
    """Rows as one array, float64[taps, n, 6]; a tap that brought none has NaN throughout."""
    requests = max((len(part) for part in rows.values()), default=0)
    stacked = np.full((len(taps), requests, len(ROW_STATISTICS)), np.nan)
    for index, tap in enumerate(taps):
        if tap in rows:
            stacked[index] = rows[tap].values
    return stacked


class Scorer:
    """Scores requests against reference rows, float64[taps, n, 6], and ranks the scores among theirs.

    `distance` is the Mahalanobis distance of the five features, strange when large. The other scores are
    the features themselves, strange in either direction. Centre and covariance of the distance come from
    every fourth reference request and its ranks from the others: a request that took part in the fit lies
    nearer to it than a new one, which would make new requests look strange without any drift.
    """

    def __init__(self, reference: Array) -> None:
        described = features(reference)
        broken = _broken(reference)
        fit = np.where(broken[:, ::_FIT_STRIDE, None], np.nan, described[:, ::_FIT_STRIDE])
        self._centre, self._whiten = _fit(fit)
        scores = self._score(described, broken)
        held_out = np.arange(reference.shape[1]) % _FIT_STRIDE != 0
        self._calibration = [
            [_reached_sorted(tap[held_out, 0]), *(_reached_sorted(column) for column in tap.T[1:])]
            for tap in scores
        ]

    @property
    def calibration_requests(self) -> tuple[int, ...]:
        """How many reference requests the p-values of each tap are ranks among, at the least."""
        return tuple(min(len(scores) for scores in kinds) for kinds in self._calibration)

    def p_values(self, rows: Array, rng: np.random.Generator) -> Array:
        """Smoothed conformal p-values, float64[n, taps, scores], small where a score is large.

        p = (greater + u (equal + 1)) / (m + 1) with u uniform: exactly uniform for a request that is
        exchangeable with the m of the reference, ties included. NaN where a request did not reach the
        tap. Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005, section 2.3.
        """
        scores = self._score(features(rows), _broken(rows))
        taps, requests, kinds = scores.shape
        below = np.zeros((taps, kinds, requests))
        equal = np.zeros((taps, kinds, requests))
        sizes = np.zeros((taps, kinds, 1))
        columns = np.ascontiguousarray(scores.transpose(0, 2, 1))
        for tap, calibrations in enumerate(self._calibration):
            for kind, calibration in enumerate(calibrations):
                if not len(calibration):
                    continue
                column = columns[tap, kind]
                first = calibration.searchsorted(column, side="left")
                below[tap, kind], sizes[tap, kind] = first, len(calibration)
                # Ties are rare where scores are continuous, so most of a second search is spared.
                tied = np.flatnonzero(calibration.take(first, mode="clip") == column)
                equal[tap, kind, tied] = calibration.searchsorted(column[tied], side="right") - first[tied]
        uniform = rng.random((taps, kinds, requests))
        p = (sizes - below - equal + uniform * (equal + 1)) / (sizes + 1)
        p[np.isnan(columns)] = np.nan
        return p.transpose(2, 0, 1)

    def _score(self, described: Array, broken: npt.NDArray[np.bool_]) -> Array:
        centred = (described - self._centre[:, None]) @ self._whiten
        distance = np.sqrt(np.einsum("tnf,tnf->tn", centred, centred))
        scores = np.concatenate([distance[..., None], described], axis=-1)
        scores[broken] = np.inf
        return scores


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


def _fit(described: Array) -> tuple[Array, Array]:
    """Centre, float64[taps, 5], and a matrix that makes the features white, float64[taps, 5, 5].

    The correlation is shrunk towards the identity by 5 / (5 + n), so n may be small and features may
    repeat each other.
    """
    centres = np.zeros((len(described), len(FEATURES)))
    whiten = np.tile(np.eye(len(FEATURES)), (len(described), 1, 1))
    for tap, every in enumerate(described):
        reached = every[~np.isnan(every).any(axis=1)]
        if not len(reached):
            continue
        centre = reached.mean(axis=0)
        # A feature that never moved still has rounding errors, which are no measure of strangeness.
        scale = np.maximum(reached.std(axis=0), _RELATIVE_NOISE * (1.0 + np.abs(centre)))
        standard = (reached - centre) / scale
        shrink = len(FEATURES) / (len(FEATURES) + len(reached))
        correlation = (1 - shrink) * standard.T @ standard / len(reached) + shrink * np.eye(len(FEATURES))
        centres[tap] = centre
        whiten[tap] = np.linalg.inv(np.linalg.cholesky(correlation)).T / scale[:, None]
    return centres, whiten


def _reached_sorted(scores: Array) -> Array:
    return np.sort(scores[~np.isnan(scores)])
