"""Signs of numeric trouble at a tap, which need no statistics to be believed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidecar.sketch import TapSketch
from sidecar.sketch.formats import FORMATS, NARROW, Loss, best_exponent, headroom, losses
from sidecar.types import Tap

Array = npt.NDArray[np.float64]

TOP = 10
CHANCE = 1e-6
"""Below it a low absmax is not for want of requests."""

OUTLIER_POSITIONS = 0.06
OUTLIER_LAYERS = 0.25


@dataclass(frozen=True, slots=True)
class Narrowed:
    """What an 8-bit format would lose: now, and at 2**best_exponent, the largest scale without overflow."""

    now: Loss
    best_exponent: int
    best: Loss


@dataclass(frozen=True, slots=True)
class Instability:
    """Of one tap in one window; NaN where there was nothing to measure.

    nonfinite: NaN and infinite values. headroom: format -> doublings left before it overflows.
    absmax_growth: absmax over the reference's, see `absmax_growth`. rms_growth: log2 of rms over the reference's.
    rms_change: log2 of rms over that of the window before.
    narrowed: 8-bit format -> what it would lose.
    massive: channels with |x| > 100 and >= 1,000 x median |x| (Sun et al., 2024).
    rms_kurtosis: see `Channels.rms_kurtosis`. churn: share of the ten strongest channels that were not
        among those of the window before.
    dead_channels: never fired; always_on_channels: fired at 99.9% of positions. `rate_bound` is the 95%
        bound on how often a dead one fires after all, and one that never rested rests.
    saturated_channels: see `Channels.saturated`.
    """

    nonfinite: int
    headroom: Mapping[str, float]
    absmax_growth: float
    rms_growth: float
    rms_change: float
    narrowed: Mapping[str, Narrowed]
    massive: int
    rms_kurtosis: float
    churn: float
    dead_channels: float
    always_on_channels: int
    saturated_channels: int
    rate_bound: float


def instability(
    window: TapSketch, reference: TapSketch | None, before: TapSketch, reference_absmax: Array
) -> Instability:
    """before: the window before this one, empty where nothing is known of it.

    reference_absmax: float64[n], of each request of the reference, sorted; empty without one.
    """
    absmax = window.absmax
    return Instability(
        nonfinite=window.counts.nonfinite,
        headroom={target.name: headroom(absmax, target) for target in FORMATS},
        absmax_growth=absmax_growth(absmax, window.counts.requests, reference_absmax),
        rms_growth=_octaves(window, reference) if reference else math.nan,
        rms_change=_octaves(window, before),
        narrowed=_narrowed(window),
        massive=int(window.massive().sum()),
        rms_kurtosis=window.channels.rms_kurtosis,
        churn=churn(before, window),
        dead_channels=float(window.channels.dead().sum()) if window.channels.positions else math.nan,
        always_on_channels=int(window.channels.always_on().sum()),
        saturated_channels=int(window.channels.saturated().sum()),
        rate_bound=window.channels.dead_rate_bound,
    )


def absmax_growth(absmax: float, requests: int, reference: Array) -> float:
    """Absmax of so many requests over the largest of the reference's, or 1 where it is lower by `CHANCE` or more.

    reference: float64[n], absmax of each request, sorted. NaN where it is empty or all of it is 0.
    Of k values in the reference that are no larger, the probability that none of the requests passes the next one is
    n! (k + requests)! / (k! (n + requests)!), whatever the distribution: so a few requests, the largest of which is
    seldom as large as that of thousands, raise no suspicion.
    """
    n = len(reference)
    if not n or not reference[-1] or math.isnan(absmax):
        return math.nan
    k = int(np.searchsorted(reference, absmax, side="right"))
    chance = (
        math.lgamma(n + 1)
        + math.lgamma(k + requests + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n + requests + 1)
    )
    return absmax / float(reference[-1]) if k == n or chance < math.log(CHANCE) else 1.0


def _octaves(window: TapSketch, other: TapSketch) -> float:
    if not window.moments.n or not other.moments.n or not window.moments.rms or not other.moments.rms:
        return math.nan
    return math.log2(window.moments.rms / other.moments.rms)


def _narrowed(window: TapSketch) -> dict[str, Narrowed]:
    best = [(target, best_exponent(window.absmax, target)) for target in NARROW]
    found = losses(window.histogram, [*[(target, 0) for target in NARROW], *best])
    return {
        target.name: Narrowed(now, exponent, there)
        for (target, exponent), now, there in zip(best, found, found[len(NARROW) :], strict=False)
    }


def churn(before: TapSketch, window: TapSketch) -> float:
    """Share of the ten channels of largest rms that were not among the ten of the window before."""
    top, old = window.channels.top(TOP), before.channels.top(TOP)
    return len(top - old) / len(top) if top and old else math.nan


@dataclass(frozen=True, slots=True)
class AcrossLayers:
    """What shows only when all layers are seen together: see `outlier_features` and `depth_growth`."""

    outlier_features: int
    depth_growth: float

    @classmethod
    def of(cls, windows: Mapping[Tap, TapSketch]) -> AcrossLayers:
        return cls(outlier_features(windows), depth_growth(windows))


def outlier_features(windows: Mapping[Tap, TapSketch]) -> int:
    """Channels with |x| >= 6 at 6% of the positions or more, in a quarter of the layers or more.

    Layers are compared where they are alike: same site, same width. Dettmers et al., LLM.int8(), 2022, section 4.
    """
    alike: defaultdict[tuple[str, int], list[TapSketch]] = defaultdict(list)
    for tap, window in windows.items():
        if window.channels.positions:
            alike[tap.site, tap.channels].append(window)
    found = 0
    for layers in alike.values():
        often = [one.channels.outliers >= OUTLIER_POSITIONS * one.channels.positions for one in layers]
        found += int(np.count_nonzero(np.mean(often, axis=0) >= OUTLIER_LAYERS))
    return found


def depth_growth(windows: Mapping[Tap, TapSketch]) -> float:
    """Octaves by which the rms grows from one layer to the next: the slope of log2(rms) by least squares.

    Over the taps of the residual stream, or of the site that most taps have; NaN with fewer than two of them.
    """
    sites = [tap.site for tap in windows]
    site = "resid" if "resid" in sites else max(sites, key=sites.count, default="")
    known = [
        (tap.layer, math.log2(window.moments.rms))
        for tap, window in windows.items()
        if tap.site == site and window.moments.n and window.moments.rms > 0
    ]
    if len({layer for layer, _ in known}) < 2:
        return math.nan
    layers, octaves = np.array(known).T
    depth = layers - layers.mean()
    return float(depth @ (octaves - octaves[0]) / (depth @ depth))
