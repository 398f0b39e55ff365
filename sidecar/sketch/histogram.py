"""Counts of values, zeros among them, keyed by the top bits of their float32."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from sidecar.errors import SketchError

MANTISSA_BITS = 3
BINS = 4096

_SHIFT = 23 - MANTISSA_BITS
_PER_SIGN = BINS // 2
_MAGNITUDE = np.uint32(0x7FFFFFFF)


def bin_index(x: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Bucket of every value: sign, 8 bits of exponent, 3 of mantissa.

    x: float32 of any shape, finite and not zero. Buckets include their edge of larger magnitude, as
    Prometheus' native histograms do, which is why 1 is taken off the bits. With 8 buckets an octave
    an edge is at most 12.5% from the next.
    """
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    magnitude = (bits & _MAGNITUDE).astype(np.int64)
    sign = (bits >> np.uint32(31)).astype(np.int64)
    return (sign << 11) | ((magnitude - 1) >> _SHIFT)


@cache
def edges() -> npt.NDArray[np.float64]:
    """Magnitude edges, float64[2049], read-only: bucket k covers (edges[k], edges[k + 1]].

    The last eight buckets carry the exponent of infinity. They stay empty; their edges go on past the
    largest float32 so that the axis rises everywhere.
    """
    step = np.arange(_PER_SIGN + 1, dtype=np.int64)
    exponent, mantissa = step >> MANTISSA_BITS, step & (2**MANTISSA_BITS - 1)
    fraction = mantissa / 2**MANTISSA_BITS
    normal = np.ldexp(1.0 + fraction, (exponent - 127).astype(np.int32))
    result: npt.NDArray[np.float64] = np.where(exponent == 0, np.ldexp(fraction, -126), normal)
    result.flags.writeable = False
    return result


@cache
def _upper_bounds() -> npt.NDArray[np.float64]:
    """Upper bounds of the cells of `Histogram.signed`, float64[4097]."""
    magnitudes = edges()
    return np.concatenate([-magnitudes[-2::-1], [0.0], magnitudes[1:]])


@cache
def _lower_bounds() -> npt.NDArray[np.float64]:
    magnitudes = edges()
    return np.concatenate([-magnitudes[:0:-1], [0.0], magnitudes[:-1]])


def bounds() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lower and upper bounds of the cells of `Histogram.signed`, each float64[4097]."""
    return _lower_bounds(), _upper_bounds()


@dataclass(slots=True, eq=False)
class Histogram:
    """counts: int64[4096]; the last cell, whose bits no finite value has, holds the zeros.

    Non-finite values are counted elsewhere. A kernel may show it a share of the values only, chosen by
    where they stand and not by what they are: `total` says how many, and what it answers are shares of those.
    """

    counts: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.counts.shape != (BINS,):
            raise SketchError(f"a histogram has {BINS} buckets, not {self.counts.shape}")

    @classmethod
    def empty(cls) -> Histogram:
        return cls(np.zeros(BINS, dtype=np.int64))

    def merge(self, other: Histogram) -> None:
        self.counts += other.counts

    def copy(self) -> Histogram:
        return Histogram(self.counts.copy())

    @property
    def zeros(self) -> int:
        return int(self.counts[-1])

    @property
    def total(self) -> int:
        """Values that were counted here."""
        return int(self.counts.sum())

    def signed(self) -> npt.NDArray[np.int64]:
        """Counts from the most negative to the most positive value, int64[4097]; cell 2048 holds the zeros."""
        negative = self.counts[-2 : _PER_SIGN - 1 : -1]
        return np.concatenate([[0], negative, [self.zeros], self.counts[:_PER_SIGN]])

    def magnitudes(self) -> npt.NDArray[np.int64]:
        """Counts by |x|, zeros left out, int64[2048]; bucket k covers (edges[k], edges[k + 1]]."""
        counts = self.counts[:_PER_SIGN] + self.counts[_PER_SIGN:]
        counts[-1] -= self.zeros
        return counts

    def within(self, bounds: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """How many values have 0 < |x| <= each bound, int64 of the shape of `bounds`.

        Exact at an edge; a bucket that a bound cuts counts as beyond it.
        """
        cumulative = np.concatenate([[0], np.cumsum(self.magnitudes())])
        places = np.searchsorted(edges(), bounds, side="right") - 1
        result: npt.NDArray[np.int64] = cumulative[places]
        return result

    @property
    def median_magnitude(self) -> float:
        """Median of |x|, the upper edge of its bucket, 0 where most are zeros; NaN without values."""
        if not self.total:
            return float("nan")
        cumulative = np.cumsum(np.concatenate([[self.zeros], self.magnitudes()]))
        return float(edges()[np.searchsorted(2 * cumulative, cumulative[-1])])

    def cumulative_at(self, bounds: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """How many values lie at or below each signed bound, int64 of the shape of `bounds`.

        Exact where a bound is a positive edge or 0. A negative edge leaves out the values that equal
        it, and a bucket that a bound cuts counts as above it.
        """
        cumulative = np.concatenate([[0], np.cumsum(self.signed())])
        result: npt.NDArray[np.int64] = cumulative[np.searchsorted(_upper_bounds(), bounds, side="right")]
        return result

    def quantile(self, q: float) -> float:
        """Value below which the share `q` of all values lies; within a bucket linear; NaN without values."""
        cumulative = np.cumsum(self.signed())
        if cumulative[-1] == 0:
            return float("nan")
        target = max(q * float(cumulative[-1]), 1.0)
        cell = int(np.searchsorted(cumulative, target, side="left"))
        before = float(cumulative[cell - 1]) if cell else 0.0
        share = (target - before) / (float(cumulative[cell]) - before)
        low, high = _lower_bounds()[cell], _upper_bounds()[cell]
        return float(low + share * (high - low))
