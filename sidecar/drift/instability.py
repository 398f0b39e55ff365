"""Signs of numeric trouble at a tap, which need no statistics to be believed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sidecar.sketch import TapSketch


@dataclass(frozen=True, slots=True)
class Instability:
    """nonfinite: NaN and infinite values in the window. headroom: doublings left before float16 overflows.

    absmax_growth: the window's absmax over the reference's, NaN without either.
    dead_channels: channels that never fired; `dead_rate_bound` is the 95% bound on how often they may.
    """

    nonfinite: int
    headroom: float
    absmax_growth: float
    dead_channels: int
    dead_rate_bound: float


def instability(window: TapSketch, reference: TapSketch | None) -> Instability:
    expected = reference.moments.absmax if reference else math.nan
    return Instability(
        nonfinite=window.counts.nonfinite,
        headroom=window.float16_headroom,
        absmax_growth=window.moments.absmax / expected if expected else math.nan,
        dead_channels=int(window.channels.dead().sum()),
        dead_rate_bound=window.channels.dead_rate_bound,
    )
