"""Count, mean, central moments and extremes of values, mergeable without loss of accuracy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

_ROUNDING = 2.0**-50


@dataclass(slots=True)
class Moments:
    """n finite values with central moments m2, m3, m4 (sums of powers of x - mean, not divided by n).

    An empty one has minimum +inf and maximum -inf.
    """

    n: int
    mean: float
    m2: float
    m3: float
    m4: float
    minimum: float
    maximum: float

    @classmethod
    def empty(cls) -> Moments:
        return cls(0, 0.0, 0.0, 0.0, 0.0, math.inf, -math.inf)

    @classmethod
    def from_power_sums(
        cls, n: int, pivot: float, s1: float, s2: float, s3: float, s4: float, minimum: float, maximum: float
    ) -> Moments:
        """From sums of (x - pivot)**k over n values. The nearer the pivot to the mean, the less is lost."""
        if n == 0:
            return cls.empty()
        shift = s1 / n
        return cls(
            n=n,
            mean=pivot + shift,
            m2=max(s2 - n * shift**2, 0.0),
            m3=s3 - 3 * shift * s2 + 2 * n * shift**3,
            m4=max(s4 - 4 * shift * s3 + 6 * shift**2 * s2 - 3 * n * shift**4, 0.0),
            minimum=minimum,
            maximum=maximum,
        )

    def merge(self, other: Moments) -> None:
        """Pairwise update: Chan, Golub, LeVeque 1979 for m2; Pebay, SAND2008-6212, eq. 2.1 for m3 and m4."""
        if other.n == 0:
            return
        a, b = float(self.n), float(other.n)
        n = a + b
        delta = other.mean - self.mean if self.n else other.mean
        share = delta / n
        self.m4 += (
            other.m4
            + share**3 * delta * a * b * (a * a - a * b + b * b)
            + 6 * share**2 * (a * a * other.m2 + b * b * self.m2)
            + 4 * share * (a * other.m3 - b * self.m3)
        )
        self.m3 += other.m3 + share**2 * delta * a * b * (a - b) + 3 * share * (a * other.m2 - b * self.m2)
        self.m2 += other.m2 + share * delta * a * b
        self.mean = (a * self.mean + b * other.mean) / n if a and b else other.mean
        self.n += other.n
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)

    def copy(self) -> Moments:
        return replace(self)

    @property
    def variance(self) -> float:
        """Divided by n, not n - 1: it describes the values seen."""
        return self.m2 / self.n if self.n else math.nan

    @property
    def stddev(self) -> float:
        return math.sqrt(self.variance)

    @property
    def skewness(self) -> float:
        return math.sqrt(self.n) * self.m3 / self.m2**1.5 if self._varies else math.nan

    @property
    def kurtosis(self) -> float:
        """Fourth standardised moment, 3 for a Gaussian; NaN where the values do not vary."""
        return self.n * self.m4 / self.m2**2 if self._varies else math.nan

    @property
    def rms(self) -> float:
        return math.sqrt(self.mean**2 + self.variance)

    @property
    def absmax(self) -> float:
        return max(abs(self.minimum), abs(self.maximum)) if self.n else math.nan

    @property
    def _varies(self) -> bool:
        # Equal values leave a variance of rounding errors, whose ratios mean nothing.
        return self.n > 0 and self.m2 > self.n * (_ROUNDING * self.absmax) ** 2
