"""Every number that a pane keeps about a tap, beside its sketch: what a matrix of layers against time shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidecar.sketch import TapSketch, edges

MASSIVE = 100.0
ALWAYS_ON = 0.999


@dataclass(frozen=True, slots=True)
class Statistic:
    """help: one sentence. gaussian: what a Gaussian has, where that does not depend on its scale.

    of: None for what is not in the sketch and is given with the pane.
    """

    help: str
    of: Callable[[TapSketch], float] | None
    gaussian: float | None = None


def _moment(name: str) -> Callable[[TapSketch], float]:
    return lambda sketch: float(getattr(sketch.moments, name)) if sketch.moments.n else math.nan


def _property(name: str) -> Callable[[TapSketch], float]:
    return lambda sketch: float(getattr(sketch, name))


def hoyer(channel_rms: npt.NDArray[np.float64]) -> float:
    """Sparsity of a layer over its channels, 0 (all alike) to 1 (one alone). Hoyer, JMLR 5, 2004, eq. 3.

    >>> hoyer(np.array([0.0, 0.0, 0.0, 2.0]))
    1.0
    """
    l1, l2 = float(channel_rms.sum()), float(np.sqrt(np.sum(channel_rms**2)))
    root = math.sqrt(channel_rms.size)
    return (root - l1 / l2) / (root - 1) if l2 > 0 and root > 1 else math.nan


def channel_kurtosis(channel_rms: npt.NDArray[np.float64]) -> float:
    """Outlier-feature kurtosis mean(s**4) / mean(s**2)**2 over channel RMS s; He 2024, arXiv 2405.19279."""
    square = float(np.mean(channel_rms**2))
    return float(np.mean(channel_rms**4)) / square**2 if square > 0 else math.nan


def channel_rms(sketch: TapSketch) -> npt.NDArray[np.float64]:
    """float64[C], NaN without positions."""
    channels = sketch.channels
    if not channels.positions:
        return np.full(len(channels), math.nan)
    return np.sqrt(channels.squares / channels.positions)


def dead(sketch: TapSketch) -> npt.NDArray[np.bool_]:
    """bool[C]: never fired."""
    return sketch.channels.dead()


def always_on(sketch: TapSketch) -> npt.NDArray[np.bool_]:
    """bool[C]: fired at 99.9% of the positions or more."""
    channels = sketch.channels
    return (channels.fires >= ALWAYS_ON * channels.positions) & (channels.positions > 0)


def massive(sketch: TapSketch) -> npt.NDArray[np.bool_]:
    """bool[C]: absmax above 100 and at least 1,000 times the median |x| of the tap; Sun 2024, arXiv 2402.17762."""
    absmax = sketch.channels.absmax
    return (absmax > MASSIVE) & (absmax >= 1000 * median_magnitude(sketch))


def median_magnitude(sketch: TapSketch) -> float:
    """Median of |x|: the upper edge of its histogram cell; 0 where most are zeros, NaN without values."""
    signed = sketch.histogram.signed()
    middle = signed.size // 2
    if not signed.any():
        return math.nan
    folded = signed[middle:] + signed[middle::-1]
    folded[0] = signed[middle]
    cumulative = np.cumsum(folded)
    return float(edges()[np.searchsorted(2 * cumulative, cumulative[-1])])


STATISTICS: Mapping[str, Statistic] = {
    "mean": Statistic("Mean of the values.", _moment("mean")),
    "stddev": Statistic("Standard deviation of the values.", _moment("stddev")),
    "rms": Statistic("Root mean square of the values.", _moment("rms")),
    "absmax": Statistic("Largest magnitude.", _moment("absmax")),
    "minimum": Statistic("Smallest value.", _moment("minimum")),
    "maximum": Statistic("Largest value.", _moment("maximum")),
    "skewness": Statistic("Third standardised moment.", _moment("skewness"), 0.0),
    "kurtosis": Statistic("Fourth standardised moment.", _moment("kurtosis"), 3.0),
    "crest": Statistic("Crest factor: absmax over rms.", _property("crest")),
    "headroom": Statistic("Doublings left before float16 overflows.", _property("float16_headroom")),
    "zero_share": Statistic("Share of values equal to 0.", _property("zero_share")),
    "near_zero_share": Statistic(
        "Share of values at or below capture.near_zero.", _property("near_zero_share")
    ),
    "outlier_share": Statistic("Share of values of at least 6.", _property("outlier_share")),
    "nonfinite": Statistic("NaN and infinite values.", lambda sketch: float(sketch.counts.nonfinite)),
    "p01": Statistic("1% of the values lie below it.", lambda sketch: sketch.histogram.quantile(0.01)),
    "p50": Statistic("Median of the values.", lambda sketch: sketch.histogram.quantile(0.5)),
    "p99": Statistic("99% of the values lie below it.", lambda sketch: sketch.histogram.quantile(0.99)),
    "dead": Statistic("Channels that never fired.", lambda sketch: float(np.count_nonzero(dead(sketch)))),
    "always_on": Statistic(
        "Channels that fired at 99.9% of the positions.",
        lambda sketch: float(np.count_nonzero(always_on(sketch))),
    ),
    "massive": Statistic(
        "Channels with a massive activation: above 100 and 1,000 times the median magnitude.",
        lambda sketch: float(np.count_nonzero(massive(sketch))),
    ),
    "hoyer": Statistic(
        "Hoyer sparsity of the channels' rms, 0 to 1.", lambda sketch: hoyer(channel_rms(sketch))
    ),
    "channel_kurtosis": Statistic(
        "Kurtosis of the channels' rms: mean(s**4) / mean(s**2)**2.",
        lambda sketch: channel_kurtosis(channel_rms(sketch)),
    ),
    "requests": Statistic("Observed requests.", lambda sketch: float(sketch.counts.requests)),
    "evidence": Statistic("Drift evidence of the layer at the pane's end, in nats.", None),
}
"""By the name that queries use."""


def statistics(sketch: TapSketch) -> dict[str, float]:
    """What the sketch tells; NaN for what its values cannot."""
    return {name: one.of(sketch) for name, one in STATISTICS.items() if one.of}
