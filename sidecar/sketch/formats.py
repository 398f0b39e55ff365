"""Number formats, and what a tap's values would lose in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.sketch.histogram import Histogram


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """largest: finite value. least_normal and least (subnormal): smallest magnitudes above 0."""

    name: str
    largest: float
    least_normal: float
    least: float


FLOAT16 = FloatFormat("float16", 65504.0, 2.0**-14, 2.0**-24)
BFLOAT16 = FloatFormat("bfloat16", 255 * 2.0**120, 2.0**-126, 2.0**-133)
FLOAT32 = FloatFormat("float32", (2 - 2.0**-23) * 2.0**127, 2.0**-126, 2.0**-149)
E4M3 = FloatFormat("e4m3", 448.0, 2.0**-6, 2.0**-9)
E5M2 = FloatFormat("e5m2", 57344.0, 2.0**-14, 2.0**-16)
"""IEEE 754-2019; bfloat16; and the 8-bit formats of Micikevicius et al., 2022 (arXiv 2209.05433), table 1."""

FORMATS = (FLOAT16, BFLOAT16, FLOAT32, E4M3, E5M2)
NARROW = (E4M3, E5M2)


@dataclass(frozen=True, slots=True)
class Loss:
    """Shares of the finite values, zeros among them, that a format could not hold at a scale; NaN without values.

    overflow: beyond its largest value. to_zero: rounded to 0 and not 0 before. subnormal: kept with fewer bits.
    """

    overflow: float
    to_zero: float
    subnormal: float


def headroom(absmax: float, target: FloatFormat) -> float:
    """Doublings left before the format overflows, log2(largest / absmax); +inf where all values are 0."""
    return math.log2(target.largest / absmax) if absmax != 0 else math.inf


def best_exponent(absmax: float, target: FloatFormat) -> int:
    """The largest e at which no value times 2**e overflows, as scaling by the absmax gives it; 0 without values."""
    return math.floor(headroom(absmax, target)) if 0 < absmax < math.inf else 0


def losses(histogram: Histogram, targets: Sequence[tuple[FloatFormat, int]]) -> list[Loss]:
    """What values times 2**exponent would lose in each format, by (format, exponent).

    Exact but for one kind of value: one that equals the least normal counts as subnormal. All bounds of the
    8-bit formats are edges of buckets at every exponent, and ties at half the least value round to 0 (to even).
    """
    total = histogram.total
    if not total:
        return [Loss(math.nan, math.nan, math.nan)] * len(targets)
    within = histogram.within(
        [
            [math.ldexp(bound, -exponent) for bound in (one.least / 2, one.least_normal, one.largest)]
            for one, exponent in targets
        ]
    )
    nonzero = total - histogram.zeros
    return [
        Loss((nonzero - finite) / total, zero / total, (normal - zero) / total)
        for zero, normal, finite in within.tolist()
    ]
