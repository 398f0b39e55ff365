"""Everything drift has to say."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.drift.between import Between
from sidecar.drift.causes import Cause
from sidecar.drift.groups import ClassShare
from sidecar.drift.instability import AcrossLayers, Instability
from sidecar.drift.sizes import EffectSizes
from sidecar.types import Tap


@dataclass(frozen=True, slots=True)
class LayerDrift:
    """One tap. Evidence in nats since the reference; everything else over `drift.window_seconds`.

    requests: in the window. alarm_ordinals: the newest 100, counted in judged requests from 1. shifted_statistic: the
    request statistic of `effects.mean_shift`, "" if none. worst_channels: (index, shift in the channel's standard
    deviations), largest first, empty without reference or requests.
    """

    tap: Tap
    requests: int
    evidence: float
    active: bool
    alarms: int
    alarm_ordinals: tuple[int, ...]
    effects: EffectSizes
    shifted_statistic: str
    worst_channels: tuple[tuple[int, float], ...]
    instability: Instability
    between: Between


@dataclass(frozen=True, slots=True)
class OutputDrift:
    """What a classifier answers. evidence: of distance, energy and margin; class_evidence: of the predicted classes.

    Both in nats: evidence is comparable with the level of a layer, the model alarms where class_evidence is ln 4 above
    `alarm_level`. It is 0 where requests are judged class by class. shares: of the predicted classes.
    """

    evidence: float
    class_evidence: float
    active: bool
    alarms: int
    shares: tuple[ClassShare, ...]


@dataclass(frozen=True, slots=True)
class DriftState:
    """Everything drift has to say at one moment; never changes.

    model_evidence, alarm_level and layer_alarm_level in nats. layers: in the order of the taps.
    cause: None while no drift is active.
    reference_small: the reference has fewer than 5,000 requests, so small drift takes longer to find.
    reference_created: seconds since the epoch, NaN while there is none.
    reference_widening: what a bet on a shift of one sigma is divided by for the sampling error of the reference.
    window_seconds, window_requests: what effect sizes are of.
    strata: the kinds of requests that are judged among themselves. output: None of what is no classifier.
    direction_evidence: of all layers together, in nats; the model alarms where it is ln 4 above `alarm_level`.
    """

    reference_requests: int
    reference_ready: bool
    reference_small: bool
    reference_created: float
    reference_widening: float
    judged_requests: int
    window_seconds: float
    window_requests: int
    model_evidence: float
    alarm_level: float
    layer_alarm_level: float
    model_active: bool
    model_alarms: int
    model_alarm_ordinals: tuple[int, ...]
    layers: tuple[LayerDrift, ...]
    across: AcrossLayers
    cause: Cause | None
    output: OutputDrift | None
    direction_evidence: float
    strata: tuple[str, ...]
