"""Sequential evidence of drift with a stated average run length between false alarms."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[np.float64]

SHIFTS = (0.25, 0.5, 1.0, 2.0, 3.0)
"""Shifts of a score, in standard deviations, that one bet each is best at; either direction."""

ORDINALS_KEPT = 100

_BETS = np.array([sign * shift for shift in SHIFTS for sign in (1.0, -1.0)])
_LEAST_P = 1e-12


@cache
def _normal_table() -> tuple[Array, Array]:
    """Standard normal quantiles at even steps of the log odds; linear between them to 1e-6."""
    log_odds = np.linspace(-28.0, 28.0, 11_201)
    normal = NormalDist()
    return log_odds, np.array([normal.inv_cdf(1 / (1 + math.exp(-step))) for step in log_odds])


def normal_scores(p: Array) -> Array:
    """Standard normal quantile of 1 - p, of any shape; NaN stays NaN."""
    clipped = np.clip(p, _LEAST_P, 1 - _LEAST_P)
    log_odds, normal = _normal_table()
    scores: Array = np.interp(np.log1p(-clipped) - np.log(clipped), log_odds, normal)
    return scores


def bets(p: Array) -> Array:
    """Betting factors of p-values, [...] -> [..., 10]; each integrates to 1 over p in (0, 1).

    exp(shift z - shift**2 / 2) with z the normal score of p: the likelihood ratio of a Gaussian score
    that moved by `shift`, so no other bet grows faster when it did. NaN stays NaN.
    """
    factors: Array = np.exp(normal_scores(p)[..., None] * _BETS - _BETS**2 / 2)
    return factors


# Compiled, because it runs for every observed request; without the GIL, because requests are served meanwhile.
@njit(cache=True, nogil=True)
def _advance(evidence: Array, z: Array, shifts: Array, discount: Array, cap: float, layers: Array) -> None:
    """R_t = (1 + R_{t-1}) b_t for float64[taps, scores, bets], over z of float64[n, taps, scores].

    layers: out, float64[n, taps], the mean of each tap after each request.
    """
    requests, taps, scores = z.shape
    for t in range(requests):
        for tap in range(taps):
            total = 0.0
            for score in range(scores):
                value = z[t, tap, score]
                for bet in range(len(shifts)):
                    # A request that says nothing bets nothing: R stays.
                    if not np.isnan(value):
                        factor = np.exp(shifts[bet] * (value - shifts[bet] / 2)) * discount[tap, bet]
                        evidence[tap, score, bet] = min((1.0 + evidence[tap, score, bet]) * factor, cap)
                    total += evidence[tap, score, bet]
            layers[t, tap] = total / (scores * len(shifts))


@cache
def reference_allowance(requests: int) -> Array:
    """1 plus two standard errors of each bet's mean, [10], given a reference of so many requests.

    The m requests cut (0, 1) into m + 1 parts of random width, jointly Dirichlet(1, ..., 1). A bet that
    takes the values b over equal parts has variance var(b) / m over random ones.
    """
    middles = (np.arange(requests + 1) + 0.5) / (requests + 1)
    allowance: Array = 1.0 + 2.0 * bets(middles).std(axis=0) / math.sqrt(max(requests, 1))
    return allowance


class Latch:
    """Counts one alarm an excursion: from `alarm` or above until the evidence is at most `clear`."""

    def __init__(self, alarm: float, clear: float) -> None:
        self.active = False
        self.alarms = 0
        self.ordinals: deque[int] = deque(maxlen=ORDINALS_KEPT)
        self._alarm = alarm
        self._clear = clear

    def update(self, evidence: Array, first: int) -> None:
        """evidence: one value a request, of which the first has ordinal `first`."""
        if not self.active and evidence.max(initial=0.0) < self._alarm:
            return
        for ordinal, value in enumerate(evidence.tolist(), start=first):
            if self.active:
                self.active = value > self._clear
            elif value >= self._alarm:
                self.active = True
                self.alarms += 1
                self.ordinals.append(ordinal)


class EDetector:
    """Evidence R of every layer and of the model, updated with each request.

    For each tap, score and bet b runs R_t = (1 + R_{t-1}) b_t. Without drift E[b_t] <= 1 whatever came
    before, so R_t - t is a supermartingale and R reaches a level N after N requests or more on average
    (Shin, Ramdas, Rinaldo, "E-detectors", 2022). A mean of such R is one again, however they depend on
    each other: the layer's R is the mean over its scores and bets, the model's the mean over layers.

    The p-values share one reference of finite size, so given that reference E[b] is 1 only up to a
    sampling error. Every bet is divided by 1 plus twice its standard error: `reference_allowance`.

    The model alarms at R >= N = `run_length`. A layer alarms at R >= taps x N, which puts the model's mean
    at N or above: every layer's alarm lies inside an alarm of the model, so all of them together keep N.

    An alarm lasts until R is down to the square root of its level. The wait from there to the next false
    alarm is N - sqrt(N) requests or more on average. Each R is capped at twice what it needs to raise
    its layer's alarm alone; a cap only lowers R, and lets it come down when drift ends.
    """

    def __init__(self, scores: int, run_length: float, reference_requests: Sequence[int]) -> None:
        """reference_requests: one number a tap, of the requests that its p-values are ranks among."""
        taps = len(reference_requests)
        self.alarm_level = math.log(run_length)
        self.layer_alarm_level = math.log(taps * run_length)
        self.judged = 0
        self.model = Latch(run_length, math.sqrt(run_length))
        layer = taps * run_length
        self.layers = tuple(Latch(layer, math.sqrt(layer)) for _ in range(taps))
        members = scores * len(_BETS)
        allowances = np.array([reference_allowance(requests) for requests in reference_requests])
        self._discount = 1 / allowances
        self._cap = 2.0 * members * layer
        self._evidence = np.zeros((taps, scores, len(_BETS)))
        self._layer_evidence = np.zeros(taps)

    def update(self, p: Array) -> None:
        """p: float64[n, taps, scores]; where it is NaN the request says nothing and R stays."""
        if not len(p):
            return
        layers = np.empty(p.shape[:2])
        _advance(self._evidence, normal_scores(p), _BETS, self._discount, self._cap, layers)
        first = self.judged + 1
        for latch, course in zip(self.layers, layers.T, strict=True):
            latch.update(course, first)
        self.model.update(layers.mean(axis=-1), first)
        self._layer_evidence = layers[-1]
        self.judged += len(p)

    @property
    def model_evidence(self) -> float:
        """ln of the model's R in nats, 0 where R is below 1, comparable with `alarm_level`."""
        return math.log(max(float(self._layer_evidence.mean()), 1.0))

    @property
    def layer_evidence(self) -> Array:
        """ln of every layer's R in nats, 0 where R is below 1, comparable with `layer_alarm_level`."""
        return np.log(np.maximum(self._layer_evidence, 1.0))
