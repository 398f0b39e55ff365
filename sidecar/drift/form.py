"""Bets on the form of a distribution: whatever it became, not only a shift."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[np.float64]

CELLS = 16
"""Of equal probability without drift."""

HORIZON = 500
"""How many requests a cell's share is learned from, the older the less."""

TRUST = 0.75
"""Of what was learned; the rest bets nothing, so one surprise does not end it."""

_EDGES = np.array([NormalDist().inv_cdf(cell / CELLS) for cell in range(1, CELLS)])
_STEPS = int(math.log2(CELLS))
_FORGET = 1.0 / HORIZON


@njit(cache=True, nogil=True)
def form_bet(shares: Array, z: float) -> float:
    """How much more frequent the cell of z has become, by `shares`, float64[CELLS], which learn from z afterwards.

    Without drift its mean is 1 whatever the shares are, because they come from earlier requests alone. A plug-in
    martingale: Fedorova, Gammerman, Nouretdinov, Vovk, Plug-in martingales for testing exchangeability, 2012.
    """
    cell, half = 0, CELLS // 2
    for _ in range(_STEPS):
        cell += half * (z > _EDGES[cell + half - 1])
        half //= 2
    bet = 1.0 - TRUST + TRUST * CELLS * shares[cell]
    for each in range(CELLS):
        shares[each] -= _FORGET * shares[each]
    shares[cell] += _FORGET
    return float(bet)


def form_allowance(requests: int) -> float:
    """1 plus mean and two standard deviations of what the bet gains by the error of a reference of so many requests.

    Shares learned without error would gain sum (share - 1 / CELLS)**2 * CELLS, chi-squared with CELLS - 1 degrees of
    freedom over `requests`.
    """
    freedom = CELLS - 1
    return 1.0 + (freedom + 2.0 * math.sqrt(2.0 * freedom)) / max(requests, 1)
