"""Signs of instability of a whole model: of each, the tap where it is worst. The console has every tap's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from sidecar.drift.state import DriftState, LayerDrift
from sidecar.export import catalogue
from sidecar.export.catalogue import Metric
from sidecar.sketch.formats import FORMATS, NARROW

Of = Callable[[LayerDrift], float]

LARGEST: tuple[tuple[Metric, Of], ...] = (
    (catalogue.RMS_GROWTH, lambda layer: layer.instability.rms_growth),
    (catalogue.RMS_CHANGE, lambda layer: layer.instability.rms_change),
    (catalogue.CHANNEL_KURTOSIS, lambda layer: layer.instability.rms_kurtosis),
    (catalogue.CHURN, lambda layer: layer.instability.churn),
    (catalogue.RATE_BOUND, lambda layer: layer.instability.rate_bound),
    (catalogue.SELF_SIMILARITY, lambda layer: layer.between.self_similarity),
    (catalogue.VARIANCE_SHARE, lambda layer: layer.between.variance_share),
    (catalogue.SIGN_CHANGES, lambda layer: layer.between.sign_changes),
)
LEAST: tuple[tuple[Metric, Of], ...] = (
    (catalogue.DISTINCT, lambda layer: layer.between.distinct_share),
    (catalogue.PARTICIPATION, lambda layer: layer.between.participation_ratio),
    (catalogue.EFFECTIVE_RANK, lambda layer: layer.between.effective_rank),
    (catalogue.AUTOCORRELATION, lambda layer: layer.between.autocorrelation),
)


def signs(drift: DriftState) -> Iterator[tuple[Metric, tuple[str, ...], float]]:
    """(metric, labels beyond the model's, value); NaN where no tap has one."""
    layers = drift.layers
    yield catalogue.OUTLIER_FEATURES, (), drift.across.outlier_features
    yield catalogue.DEPTH_GROWTH, (), drift.across.depth_growth
    yield catalogue.MASSIVE_CHANNELS, (), sum(layer.instability.massive for layer in layers)
    channels = sum(layer.tap.channels for layer in layers)
    always_on = sum(layer.instability.always_on_channels for layer in layers)
    yield catalogue.ALWAYS_ON, (), always_on / channels if channels else math.nan
    saturated = sum(layer.instability.saturated_channels for layer in layers)
    yield catalogue.SATURATED, (), saturated / channels if channels else math.nan
    for metric, of in LARGEST:
        yield metric, (), _worst(max, map(of, layers))
    for metric, of in LEAST:
        yield metric, (), _worst(min, map(of, layers))
    for name in (target.name for target in FORMATS):
        least = _worst(min, (layer.instability.headroom[name] for layer in layers))
        yield catalogue.LEAST_HEADROOM, (name,), least
    for name in (target.name for target in NARROW):
        narrowed = [layer.instability.narrowed[name] for layer in layers]
        for metric, shares in (
            (catalogue.OVERFLOW, [one.now.overflow for one in narrowed]),
            (catalogue.UNDERFLOW, [one.now.to_zero for one in narrowed]),
            (catalogue.SUBNORMAL, [one.now.subnormal for one in narrowed]),
            (catalogue.SCALED_UNDERFLOW, [one.best.to_zero for one in narrowed]),
        ):
            yield metric, (name,), _worst(max, shares)


def _worst(pick: Callable[[Iterable[float]], float], values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return pick(known) if known else math.nan
