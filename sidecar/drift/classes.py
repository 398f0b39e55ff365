"""Evidence that the shares of the predicted classes changed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from sidecar.sketch import OutputRows

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

ODDS = (0.0, 0.5, 2.0, 20.0)
"""What the odds of a class may have been multiplied with, one bet each: it is gone, rarer, more frequent, much more."""


@njit(cache=True, nogil=True)
def _advance(
    evidence: Array, predicted: Integers, strata: Integers, hit: Array, miss: Array, cap: float, course: Array
) -> None:
    """R_t = (1 + R_{t-1}) b_t for float64[classes, odds]; b is `hit` where the class was predicted, else `miss`.

    hit, miss: float64[strata, classes, odds]. course: out, float64[n], the mean of all R.
    """
    classes, odds = evidence.shape
    for t in range(len(predicted)):
        total = 0.0
        for each in range(classes):
            for bet in range(odds):
                if predicted[t] >= 0:
                    seen = predicted[t] == each
                    factor = hit[strata[t], each, bet] if seen else miss[strata[t], each, bet]
                    evidence[each, bet] = min((1.0 + evidence[each, bet]) * factor, cap)
                total += evidence[each, bet]
        course[t] = total / (classes * odds)


class ClassShares:
    """An e-detector for each class and each of `ODDS`: the likelihood ratio of a class whose odds were multiplied.

    With q the share of the class in the reference, (n_c + 1) / (m + 1) for its n_c of m requests as in a conformal
    p-value, a factor o of the odds makes it o q / (1 - q + o q). Each bet has mean 1 at q, and is divided by 1 plus two
    standard errors of that mean, because q comes from m requests.
    """

    @classmethod
    def of(cls, outputs: OutputRows, strata: Integers, number: int) -> ClassShares | None:
        """Of the reference's answers; None where there are more classes than their shares could be told from noise."""
        classes = outputs.logits.shape[1]
        return cls(outputs.predicted, classes, strata, number) if outputs.predicted.max() < classes else None

    def __init__(self, predicted: Integers, classes: int, strata: Integers, number: int) -> None:
        """predicted, strata: int64[m] of the reference; -1 where no class is known, and stratum 0 is everyone's."""
        odds = np.array(ODDS)
        shape = (number, classes, len(ODDS))
        self._hit, self._miss = np.empty(shape), np.empty(shape)
        for stratum in range(number):
            inside = predicted if stratum == 0 else predicted[strata == stratum]
            inside = inside[inside >= 0]
            share = ((np.bincount(inside, minlength=classes) + 1) / (len(inside) + 1))[:, None]
            share = np.minimum(share, 1 - 0.5 / (len(inside) + 1))
            hit, miss = odds / (1 - share + odds * share), 1 / (1 - share + odds * share)
            variance = share * hit**2 + (1 - share) * miss**2 - 1
            allowance = 1 + 2 * np.sqrt(variance / max(len(inside), 1))
            self._hit[stratum], self._miss[stratum] = hit / allowance, miss / allowance
        self._evidence = np.zeros(shape[1:])

    @property
    def evidence(self) -> Array:
        """R of every class and bet, float64[classes, odds]."""
        return self._evidence

    def update(self, predicted: Integers, strata: Integers, level: float) -> Array:
        """The mean of all R after each request, float64[n]; each R is capped at what alone puts the mean at `level`."""
        course = np.empty(len(predicted))
        cap = level * self._evidence.size
        _advance(self._evidence, predicted, strata, self._hit, self._miss, cap, course)
        return course
