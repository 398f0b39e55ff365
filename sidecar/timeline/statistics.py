"""Every number that a pane keeps about a tap, beside its sketch: what a matrix of layers against time shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidecar.sketch import TapSketch


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
    "dead": Statistic(
        "Channels that never fired.", lambda sketch: float(np.count_nonzero(sketch.channels.dead()))
    ),
    "always_on": Statistic(
        "Channels that fired at 99.9% of the positions.",
        lambda sketch: float(np.count_nonzero(sketch.channels.always_on())),
    ),
    "massive": Statistic(
        "Channels with a massive activation: above 100 and 1,000 times the median magnitude.",
        lambda sketch: float(np.count_nonzero(sketch.massive())),
    ),
    "hoyer": Statistic(
        "Hoyer sparsity of the channels' rms, 0 to 1.", lambda sketch: hoyer(sketch.channels.rms)
    ),
    "channel_kurtosis": Statistic(
        "Kurtosis of the channels' rms: mean(s**4) / mean(s**2)**2.",
        lambda sketch: sketch.channels.rms_kurtosis,
    ),
    "requests": Statistic("Observed requests.", lambda sketch: float(sketch.counts.requests)),
    "evidence": Statistic("Drift evidence of the layer at the pane's end, in nats.", None),
}
"""By the name that queries use."""


def statistics(sketch: TapSketch) -> dict[str, float]:
    """What the sketch tells; NaN for what its values cannot."""
    return {name: one.of(sketch) for name, one in STATISTICS.items() if one.of}
