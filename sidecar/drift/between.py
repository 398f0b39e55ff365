"""What requests look like beside each other: all alike, swinging to and fro, or far apart.

Everything here is made from request statistics (`scores.features`), the only thing kept of a single request.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sidecar.drift.weighted import Array, Scale, Weighted


@dataclass(frozen=True, slots=True)
class Between:
    """NaN with fewer than three requests, or without variance where a ratio needs one.

    distinct_share: different requests as a share of all, 1 where no two look alike.
    participation_ratio, effective_rank: in how many directions requests differ, 1 to the number of statistics.
    self_similarity: mean cosine between a request and the next, about the reference's centre; about 0 in
        independent traffic, 1 where a layer answers everything alike, but not as it used to.
    variance_share: between requests, of the variance of all values, 0 to 1.
    autocorrelation: of the request means, from one to the next; below 0 where they alternate.
    sign_changes: share of steps across the median; a half in independent traffic.
    """

    distinct_share: float
    participation_ratio: float
    effective_rank: float
    self_similarity: float
    variance_share: float
    autocorrelation: float
    sign_changes: float


def between(
    points: Weighted, reference: Scale | None, distinct: float, requests: int, value_variance: float
) -> Between:
    """points: requests in order of arrival, the mean of its values being the first statistic of each.

    distinct of the `requests` in the window look different. value_variance: of all values in the window.
    """
    known = points.known()
    share = min(distinct / requests, 1.0) if requests else math.nan
    if len(known) < 3:
        return Between(share, *[math.nan] * 6)
    standard = known.standard(reference or known.scale())
    participation, rank = dimensions(standard.moments()[1])
    means = known.values[:, 0]
    return Between(
        distinct_share=share,
        participation_ratio=participation,
        effective_rank=rank,
        self_similarity=self_similarity(standard.values),
        variance_share=min(float(means.var()) / value_variance, 1.0) if value_variance > 0 else math.nan,
        autocorrelation=autocorrelation(means),
        sign_changes=sign_changes(means),
    )


def dimensions(covariance: Array) -> tuple[float, float]:
    """Participation ratio (tr C)**2 / tr(C**2) and effective rank, of float64[d, d]; both 1 to d, NaN of a 0 matrix.

    Effective rank: the exponential of the entropy of the eigenvalues' shares (Roy and Vetterli, EUSIPCO 2007).
    """
    values = np.maximum(np.linalg.eigvalsh(covariance), 0.0)
    if not values.any():
        return math.nan, math.nan
    shares = values[values > 0] / values.sum()
    return 1 / float(np.sum(shares**2)), math.exp(-float(np.sum(shares * np.log(shares))))


def self_similarity(standard: Array) -> float:
    """Mean cosine between each row and the next, of float64[n, d]; rows of 0 have none. NaN without any."""
    length = np.linalg.norm(standard, axis=1)
    both = length[:-1] * length[1:]
    known = both > 0
    cosines = np.einsum("nd,nd->n", standard[:-1], standard[1:])[known] / both[known]
    return float(cosines.mean()) if len(cosines) else math.nan


def autocorrelation(course: Array) -> float:
    """At lag 1, -1 to 1 (Box and Jenkins, 1970); its standard error without any is 1 / sqrt(n)."""
    centred = course - course.mean()
    power = float(centred @ centred)
    return float(centred[:-1] @ centred[1:]) / power if power > 0 else math.nan


def sign_changes(course: Array) -> float:
    """Share of the steps that cross the median; values that equal it are left out."""
    sides = np.sign(course - np.median(course))
    sides = sides[sides != 0]
    return float(np.mean(sides[1:] != sides[:-1])) if len(sides) > 1 else math.nan
