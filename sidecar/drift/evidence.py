"""Sequential evidence of drift with a stated average run length between false alarms."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from sidecar.drift.classes import ClassShares
from sidecar.drift.direction import taken_over
from sidecar.drift.form import CELLS, form_allowance, form_bet
from sidecar.drift.ranks import normal_scores

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

STEP = 0.25
MULTIPLES = (1, 2, 4, 8, 12)
"""Shifts of a score that one bet each is best at, in quarters of a standard deviation; either direction."""

ACROSS = 2
"""Layers at the end that see all others: the layers together, and the direction in which they move."""

ACROSS_SHARE = 1 / 4
"""Of the model's stake, on each of these, and on the classes of a classifier; all others share what is left."""

ORDINALS_KEPT = 100

_BETS = np.array([sign * STEP * multiple for multiple in MULTIPLES for sign in (1.0, -1.0)])


def bets(p: Array) -> Array:
    """Betting factors of p-values, [...] -> [..., 10]; each integrates to 1 over p in (0, 1).

    exp(shift z - shift**2 / 2) with z the normal score of p: the likelihood ratio of a Gaussian score
    that moved by `shift`, so no other bet grows faster when it did.
    """
    factors: Array = np.exp(normal_scores(p)[..., None] * _BETS - _BETS**2 / 2)
    return factors


# Compiled, because it runs for every observed request; without the GIL, because requests are served meanwhile.
@njit(cache=True, nogil=True)
def _advance(
    evidence: Array, shares: Array, z: Array, kinds: Integers, steps: Integers, strata: Integers, constant: Array,
    caps: Array, layers: Array,
) -> None:  # fmt: skip
    """R_t = (1 + R_{t-1}) b_t for float64[layers, scores, 11], over z of float64[n, layers, scores].

    kinds: how many scores each layer has. steps: 1 where both directions and the form are bet on, 2 where only the
    upper direction is. constant: float64[strata, layers, 11], what a bet is where z is 0, and of the form what it is
    multiplied with. shares: float64[layers, scores, CELLS], see `form_bet`. caps: of R, one for each layer.
    layers: out, float64[n, layers], the mean of each layer after each request.
    """
    requests, depth, _ = z.shape
    members = evidence.shape[2]
    form = members - 1
    factors = np.empty(form)
    for t in range(requests):
        for layer in range(depth):
            constants, step, cap = constant[strata[t], layer], steps[layer], caps[layer]
            total = 0.0
            for score in range(kinds[layer]):
                value = z[t, layer, score]
                held = evidence[layer, score]
                # A request that says nothing bets nothing: R stays.
                if not np.isnan(value):
                    # All bets are powers of the first: one exponential instead of ten.
                    power = np.exp(STEP * value)
                    second = power * power
                    fourth = second * second
                    eighth = fourth * fourth
                    factors[0], factors[2], factors[4], factors[6] = power, second, fourth, eighth
                    factors[8] = eighth * fourth
                    for bet in range(0, form, 2):
                        factors[bet + 1] = 1.0 / factors[bet]
                    for bet in range(0, form, step):
                        held[bet] = min((1.0 + held[bet]) * factors[bet] * constants[bet], cap)
                    if step == 1:
                        factor = form_bet(shares[layer, score], value) * constants[form]
                        held[form] = min((1.0 + held[form]) * factor, cap)
                # Of a layer that bets in one direction only, the others are 0.
                for bet in range(0, members):
                    total += held[bet]
            layers[t, layer] = total / (kinds[layer] * (members if step == 1 else form // step))


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
        self.alarm = alarm
        self._clear = clear

    def state(self) -> Integers:
        """int64[2 + ORDINALS_KEPT]: active, alarms, ordinals, and 0 where there are fewer."""
        kept = np.zeros(2 + ORDINALS_KEPT, dtype=np.int64)
        kept[:2] = self.active, self.alarms
        kept[2 : 2 + len(self.ordinals)] = self.ordinals
        return kept

    def resume(self, state: Integers) -> None:
        self.active, self.alarms = bool(state[0]), int(state[1])
        self.ordinals.clear()
        self.ordinals.extend(ordinal for ordinal in state[2:].tolist() if ordinal)

    def update(self, evidence: Array, first: int) -> None:
        """evidence: one value a request, of which the first has ordinal `first`."""
        for ordinal, value in enumerate(evidence.tolist(), start=first):
            if self.active:
                self.active = value > self._clear
            elif value >= self.alarm:
                self.active = True
                self.alarms += 1
                self.ordinals.append(ordinal)


class EDetector:
    """Evidence R of every layer and of the model, updated with each request.

    For each layer, score and bet b runs R_t = (1 + R_{t-1}) b_t. Without drift E[b_t] <= 1 whatever came
    before, so R_t - t is a supermartingale and R reaches a level N after N requests or more on average
    (Shin, Ramdas, Rinaldo, "E-detectors", 2022). A mean of such R is one again, however they depend on
    each other: the layer's R is the mean over its scores and bets, the model's a mean over layers with weights that
    add up to 1. A quarter of it is on each of the two layers at the end, which see all others, and on the classes; the
    others share the rest.

    The p-values share one reference of finite size, so given that reference E[b] is 1 only up to a
    sampling error. Every bet is divided by 1 plus twice its standard error: `reference_allowance`.

    The model alarms at R >= N = `run_length`. A layer of weight w alarms at R >= N / w, which puts the model's mean
    at N or above: every layer's alarm lies inside an alarm of the model, so all of them together keep N.

    An alarm lasts until R is down to the square root of its level. The wait from there to the next false
    alarm is N - sqrt(N) requests or more on average. Each R is capped at twice what it needs to raise
    its layer's alarm alone; a cap only lowers R, and lets it come down when drift ends.
    """

    def __init__(
        self,
        kinds: Sequence[int],
        run_length: float,
        reference_requests: Integers,
        classes: ClassShares | None = None,
    ) -> None:
        """kinds: how many scores each layer has. reference_requests: int64[strata, layers], see `Ranks.sizes`.

        The last two see all others, and of the last only large scores are strange. classes: a layer more, before
        these two.
        """
        scored = len(kinds)
        depth = scored + (classes is not None)
        own = scored - ACROSS
        self._weights = np.full(depth, ACROSS_SHARE)
        self._weights[:own] = (1 - ACROSS_SHARE * (depth - own)) / own
        levels = run_length / self._weights
        self.alarm_level = math.log(run_length)
        self.layer_alarm_level = math.log(levels[0])
        self._judged = np.zeros(1, dtype=np.int64)
        self.model = Latch(run_length, math.sqrt(run_length))
        self.layers = tuple(Latch(level, math.sqrt(level)) for level in levels.tolist())
        allowances = np.array(
            [[reference_allowance(size) for size in sizes] for sizes in reference_requests.tolist()]
        )
        self._kinds = np.array(kinds, dtype=np.int64)
        self._steps = np.where(np.arange(scored) == scored - 1, 2, 1)
        of_form = [[1 / form_allowance(size) for size in sizes] for sizes in reference_requests.tolist()]
        self._constant = np.dstack([np.exp(-(_BETS**2) / 2) / allowances, of_form])
        self._places = np.append(np.arange(own), np.arange(depth - ACROSS, depth))
        bets_each = len(_BETS) + 1
        self._caps = 2.0 * self._kinds * bets_each * levels[self._places]
        self._class_cap = 2.0 * levels[own]
        self._evidence = np.zeros((scored, max(kinds), bets_each))
        self._shares = np.full((scored, max(kinds), CELLS), 1 / CELLS)
        self._classes = classes
        self._layer_evidence = np.zeros(depth)

    def update(self, z: Array, strata: Integers, predicted: Integers | None = None) -> Array:
        """The model's R after each request, float64[n].

        z: float64[n, layers, scores], standard normal without drift; where it is NaN the request says nothing.
        strata, predicted: int64[n], of each request its stratum and class, -1 where no class is known.
        """
        if not len(z):
            return np.empty(0)
        scored = np.empty(z.shape[:2])
        _advance(
            self._evidence, self._shares, z, self._kinds, self._steps, strata, self._constant, self._caps, scored
        )  # fmt: skip
        layers = np.empty((len(z), len(self.layers)))
        layers[:, self._places] = scored
        if self._classes:
            known = np.full(len(z), -1) if predicted is None else predicted
            layers[:, -1 - ACROSS] = self._classes.update(known, strata, self._class_cap)
        first = self.judged + 1
        highest = layers.max(axis=0).tolist()
        for latch, course, most in zip(self.layers, layers.T, highest, strict=True):
            if latch.active or most >= latch.alarm:
                latch.update(course, first)
        model: Array = layers @ self._weights
        if self.model.active or float(model.max()) >= self.model.alarm:
            self.model.update(model, first)
        self._layer_evidence = layers[-1]
        self._judged += len(z)
        return model

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What `resume` goes on from."""
        return {
            **self._arrays(),
            "latches": np.stack([latch.state() for latch in (self.model, *self.layers)]),
        }

    def resume(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Raises KeyError or ValueError where `state` is of something else."""
        latches = state["latches"]
        if latches.shape != (len(self.layers) + 1, ORDINALS_KEPT + 2):
            raise ValueError(f"latches of {latches.shape} are not those of {len(self.layers)} layers")
        for name, mine in self._arrays().items():
            taken_over(mine, state[name])
        for latch, kept in zip((self.model, *self.layers), latches, strict=True):
            latch.resume(kept)

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        arrays = {
            "evidence": self._evidence, "shares": self._shares, "layers": self._layer_evidence,
            "judged": self._judged,
        }  # fmt: skip
        return arrays | ({"classes": self._classes.evidence} if self._classes else {})

    @property
    def widening(self) -> float:
        """What a bet on a shift of one sigma is divided by, where the reference is smallest."""
        return float(math.exp(-0.5) / self._constant[..., 2 * MULTIPLES.index(4)].min())

    @property
    def judged(self) -> int:
        """Requests so far."""
        return int(self._judged[0])

    @property
    def model_evidence(self) -> float:
        """ln of the model's R in nats, 0 where R is below 1, comparable with `alarm_level`."""
        return math.log(max(float(self._layer_evidence @ self._weights), 1.0))

    @property
    def layer_evidence(self) -> Array:
        """ln of every layer's R in nats, 0 where R is below 1, comparable with `layer_alarm_level`."""
        return np.log(np.maximum(self._layer_evidence, 1.0))
