"""The state of drift without what its window tells of layers that few requests have reached."""

from __future__ import annotations

import math
from dataclasses import replace

from sidecar.drift.between import Between
from sidecar.drift.causes import located
from sidecar.drift.instability import AcrossLayers, instability
from sidecar.drift.sizes import EffectSizes
from sidecar.drift.state import DriftState, LayerDrift
from sidecar.sketch import TapSketch


def told(state: DriftState, min_requests: int) -> DriftState:
    """Evidence and alarms stay, which are of all requests since the reference, and counts, which tell of no value."""
    few = {layer.tap: layer for layer in state.layers if layer.requests < min_requests}
    if not few:
        return state
    cause = state.cause
    if cause and (layer := few.get(cause.tap)):
        cause = located(cause, layer.instability.nonfinite)
    layers = tuple(_bare(layer) if layer.tap in few else layer for layer in state.layers)
    output = replace(state.output, shares=()) if state.output else None
    return replace(state, layers=layers, across=AcrossLayers.of({}), cause=cause, output=output)


def _bare(layer: LayerDrift) -> LayerDrift:
    empty = TapSketch.empty(layer.tap.channels)
    return replace(
        layer,
        effects=EffectSizes.unknown(),
        shifted_statistic="",
        worst_channels=(),
        instability=replace(instability(empty, None, empty), nonfinite=layer.instability.nonfinite),
        between=Between(*[math.nan] * 7),
    )
