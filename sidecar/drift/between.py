"""What requests look like beside each other: all alike, swinging to and fro, or far apart.

Made from request statistics (`scores.features`) and, where they are known, projections of channel means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sidecar.drift.recent import Described
from sidecar.drift.space import Projections
from sidecar.drift.weighted import Array, Scale, Weighted, ratio


@dataclass(frozen=True, slots=True)
class Between:
    """NaN with fewer than three requests, or without variance where a ratio needs one.

    distinct_share: distinct firing patterns (`sketch.patterns`) as a share of all requests, 1 where no two are alike.
    participation_ratio, effective_rank: in how many directions requests differ, 1 to the number of them.
    self_similarity: mean cosine between a request and the next, about the reference's centre; about 0 in
        independent traffic, 1 where a layer answers everything alike, but not as it used to.
    variance_share: between requests, of the variance of all values, 0 to 1.
    autocorrelation: of the request means, from one to the next; below 0 where they alternate.
    sign_changes: share of steps across the median; a half in independent traffic.
    of_channel_means: patterns, directions and self-similarity are those of 32 projections of each request's channel
        means, and not of its statistics.
    """

    distinct_share: float
    participation_ratio: float
    effective_rank: float
    self_similarity: float
    variance_share: float
    autocorrelation: float
    sign_changes: float
    of_channel_means: bool = field(default=False, kw_only=True)


def between(
    points: Weighted, reference: Scale | None, distinct: float, requests: int, value_variance: float
) -> Between:
    """points: requests in order of arrival, the mean of its values being the first statistic of each.

    distinct of the `requests` in the window look different. value_variance: of all values in the window.
    """
    known = points.known()
    alone = Described(known.values[None], known.weights)
    (found,) = _between(alone, [reference or known.scale()], [distinct], [requests], [value_variance])
    return found


def between_at_taps(
    seen: Described,
    references: Sequence[Scale] | None,
    distinct: Sequence[float],
    requests: Sequence[int],
    value_variances: Sequence[float],
) -> list[Between]:
    """`between` of every tap; those that each request reached are worked out at once."""
    scales = references or [seen.at(index).known().scale() for index in range(len(distinct))]
    columns = list(zip(scales, distinct, requests, value_variances, strict=True))
    whole = np.isfinite(np.einsum("tnf->t", seen.values))
    together = [column for column, is_whole in zip(columns, whole.tolist(), strict=True) if is_whole]
    found = iter(
        _between(Described(seen.values[whole], seen.weights), *zip(*together, strict=True))
        if together
        else []
    )
    return [
        next(found) if is_whole else between(seen.at(index), *columns[index])
        for index, is_whole in enumerate(whole.tolist())
    ]


def _between(
    seen: Described,
    scales: Sequence[Scale],
    distinct: Sequence[float],
    requests: Sequence[int],
    value_variances: Sequence[float],
) -> list[Between]:
    """All statistics of all requests are finite."""
    shares = [min(some / all, 1.0) if all else math.nan for some, all in zip(distinct, requests, strict=True)]
    if len(seen) < 3:
        return [Between(share, *[math.nan] * 6) for share in shares]
    centre, spread = np.stack([one.centre for one in scales]), np.stack([one.spread for one in scales])
    standard = (seen.values - centre[:, None]) / spread[:, None]
    participation, rank = dimensions(covariances(standard, seen.weights))
    means = np.ascontiguousarray(seen.values[..., 0])
    columns = np.column_stack(
        [
            shares,
            participation,
            rank,
            self_similarity(standard),
            np.minimum(ratio(means.var(axis=1), np.array(value_variances)), 1.0),
            autocorrelation(means),
            sign_changes(means),
        ]
    )
    return [Between(*column) for column in columns.tolist()]


def of_channel_means(
    found: Sequence[Between], projections: Projections, weights: Array, centres: Projections
) -> list[Between]:
    """With directions and self-similarity of channel means, where those of three requests are known at every tap.

    projections: float32[taps, n, p], oldest first. weights: float64[n]. centres: float32[taps, p] of the reference.
    """
    known = np.isfinite(projections).all(axis=(0, 2))
    if not projections.shape[2] or np.count_nonzero(known) < 3:
        return list(found)
    values, weights = projections[:, known].astype(np.float64), weights[known]
    participation, rank = dimensions(covariances(values, weights))
    around = centres if centres.shape == values.shape[::2] else np.full(values.shape[::2], math.nan)
    similar = self_similarity(values - np.where(np.isnan(around), values.mean(axis=1), around)[:, None])
    columns = zip(found, participation.tolist(), rank.tolist(), similar.tolist(), strict=True)
    return [
        replace(one, participation_ratio=ratio, effective_rank=rank, self_similarity=cosine, of_channel_means=True)
        for one, ratio, rank, cosine in columns
    ]  # fmt: skip


def covariances(values: Array, weights: Array) -> Array:
    """Of requests [..., n, d] with weights [n], float64[..., d, d]."""
    mean = np.einsum("n,...nd->...d", weights, values) / weights.sum()
    products = np.swapaxes(values * weights[:, None], -1, -2) @ values / weights.sum()
    covariance: Array = products - mean[..., :, None] * mean[..., None, :]
    return covariance


def dimensions(covariance: Array) -> tuple[Array, Array]:
    """Participation ratio (tr C)**2 / tr(C**2) and effective rank, [..., d, d] -> twice [...].

    Both 1 to d, NaN of a 0 matrix. Effective rank: the exponential of the entropy of the eigenvalues' shares (Roy and
    Vetterli, EUSIPCO 2007).
    """
    values = np.maximum(np.linalg.eigvalsh(covariance), 0.0)
    shares = ratio(values, values.sum(axis=-1, keepdims=True))
    logarithms = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return 1 / np.sum(shares**2, axis=-1), np.exp(-np.sum(shares * logarithms, axis=-1))


def self_similarity(standard: Array) -> Array:
    """Mean cosine between each request and the next, [..., n, d] -> [...]; those of 0 have none. NaN without any."""
    length = np.sqrt(np.einsum("...nd,...nd->...n", standard, standard))
    both = length[..., :-1] * length[..., 1:]
    products = np.einsum("...nd,...nd->...n", standard[..., :-1, :], standard[..., 1:, :])
    cosines = np.divide(products, both, out=np.zeros_like(both), where=both > 0)
    return ratio(cosines.sum(axis=-1), np.count_nonzero(both > 0, axis=-1))


def autocorrelation(course: Array) -> Array:
    """At lag 1, -1 to 1, [..., n] -> [...] (Box and Jenkins, 1970); its standard error without any is 1 / sqrt(n)."""
    centred = course - course.mean(axis=-1, keepdims=True)
    lagged = np.einsum("...n,...n->...", centred[..., :-1], centred[..., 1:])
    return ratio(lagged, np.einsum("...n,...n->...", centred, centred))


def sign_changes(course: Array) -> Array:
    """Share of the steps that cross the median, [..., n] -> [...]; values that equal it are left out."""
    sides = np.sign(course - np.median(course, axis=-1, keepdims=True))
    if sides.all():
        return np.asarray(np.mean(sides[..., 1:] != sides[..., :-1], axis=-1))
    return np.asarray(np.apply_along_axis(_changes, -1, sides))


def _changes(sides: Array) -> float:
    sides = sides[sides != 0]
    return float(np.mean(sides[1:] != sides[:-1])) if len(sides) > 1 else math.nan
