"""The state of all models at once, as /api/v1/status tells it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from sidecar.console import withheld
from sidecar.console.answers import Answer, Number
from sidecar.drift.between import Between
from sidecar.drift.causes import Cause
from sidecar.drift.instability import AcrossLayers, Instability
from sidecar.drift.state import DriftState, LayerDrift, OutputDrift
from sidecar.export.activations import Watched
from sidecar.export.pace import Pace
from sidecar.sketch import TapSketch
from sidecar.timeline import StoreStatus, Timeline

_WINDOW = "Over drift.window_seconds; null where that has fewer than console.min_requests requests."


class LayerStatus(Answer):
    """What is not said to be since the start is over drift.window_seconds, and withheld where that has few requests."""

    layer: int
    site: str
    module: str
    channels: int
    silent: Annotated[bool, Field(description="Whether it reports nothing although requests are observed.")]
    requests: Annotated[int, Field(description="Since the start.")]
    nonfinite: Annotated[int, Field(description="NaN and infinite values since the start.")]
    nonfinite_now: Annotated[int, Field(description="The same over drift.window_seconds.")]
    subnormals: Annotated[int, Field(description="Since the start.")]
    mean: Annotated[Number, Field(description=_WINDOW)]
    stddev: Number
    zero_share: Number
    near_zero_share: Number
    outlier_share: Number
    absmax: Number
    kurtosis: Number
    evidence: Annotated[Number, Field(description="In nats, since the reference.")]
    active: bool
    alarms: int
    alarm_ordinals: list[int]
    psi: Number
    jensen_shannon: Number
    kolmogorov_smirnov: Number
    wasserstein: Number
    mean_shift: Number
    frechet: Number
    frechet_of_channel_means: bool
    no_drift_levels: Mapping[str, Number]
    times_level: Number
    shifted_statistic: str
    worst_channels: list[tuple[int, Number]]
    dead_channels: int
    instability: Instability
    between_requests: Between


class ModelStatus(Answer):
    """What drift says is null where nothing is instrumented."""

    model: str
    version: str
    ready: bool
    instrumented: bool
    detail: Annotated[str, Field(description="Why it is not instrumented, or what else is wrong.")]
    sample_rate: Number
    sampled_requests: int
    refused_samples: int
    dropped_samples: Mapping[str, int]
    telemetry_failures: Mapping[str, int]
    telemetry_seconds: Number
    inference_seconds: Number
    reference_requests: int | None = None
    reference_ready: bool | None = None
    reference_small: bool | None = None
    reference_widening: Number | None = None
    strata: list[str] | None = None
    judged_requests: int | None = None
    model_evidence: Number | None = None
    alarm_level: Number | None = None
    layer_alarm_level: Number | None = None
    model_alarms: int | None = None
    direction_evidence: Number | None = None
    output: OutputDrift | None = None
    cause: Cause | None = None
    across_layers: AcrossLayers | None = None
    layers: list[LayerStatus]


class StatusAnswer(Answer):
    models: list[ModelStatus]
    store: StoreStatus | None


def status(
    watched: Sequence[Watched],
    store: Callable[[], StoreStatus] | None,
    window_seconds: float,
    min_requests: int,
) -> StatusAnswer:
    """store: how the panes on disk fare; None where none are kept."""
    models = [_model(source, window_seconds, min_requests) for source in tuple(watched)]
    return StatusAnswer(models=models, store=store() if store else None)


def _model(source: Watched, window_seconds: float, min_requests: int) -> ModelStatus:
    telemetry = source.status()
    judged: dict[str, Any] = {"layers": []}
    if source.timeline and source.monitor:
        drift = withheld.told(source.monitor.state(), min_requests)
        judged = _judged(drift)
        pace = Pace()
        for layer in drift.layers:
            pace()
            silent = layer.tap in telemetry.silent
            told = _layer(layer, source.timeline, window_seconds, min_requests, silent=silent)
            judged["layers"].append(told)
    return ModelStatus(
        model=source.model,
        version=source.version,
        ready=source.ready(),
        instrumented=telemetry.instrumented,
        detail=telemetry.detail,
        sample_rate=telemetry.sample_rate,
        sampled_requests=telemetry.sampled,
        refused_samples=telemetry.refused,
        dropped_samples=telemetry.dropped,
        telemetry_failures=telemetry.failures,
        telemetry_seconds=telemetry.telemetry_seconds,
        inference_seconds=telemetry.inference_seconds,
        **judged,
    )


def _judged(drift: DriftState) -> dict[str, Any]:
    return {
        "reference_requests": drift.reference_requests,
        "reference_ready": drift.reference_ready,
        "reference_small": drift.reference_small,
        "reference_widening": drift.reference_widening,
        "strata": list(drift.strata),
        "judged_requests": drift.judged_requests,
        "model_evidence": drift.model_evidence,
        "alarm_level": drift.alarm_level,
        "layer_alarm_level": drift.layer_alarm_level,
        "model_alarms": drift.model_alarms,
        "direction_evidence": drift.direction_evidence,
        "output": drift.output,
        "cause": drift.cause,
        "across_layers": drift.across,
        "layers": [],
    }


def _layer(
    drift: LayerDrift, timeline: Timeline, window_seconds: float, min_requests: int, *, silent: bool
) -> LayerStatus:
    tap, effects = drift.tap, drift.effects
    window, total = timeline.window(window_seconds, tap), timeline.total(tap).counts
    shown = window if window.counts.requests >= min_requests else TapSketch.empty(tap.channels)
    moments = shown.moments
    return LayerStatus(
        layer=tap.layer,
        site=tap.site,
        module=tap.module,
        channels=tap.channels,
        silent=silent,
        requests=total.requests,
        nonfinite=total.nonfinite,
        nonfinite_now=window.counts.nonfinite,
        subnormals=total.subnormals,
        mean=moments.mean if moments.n else math.nan,
        stddev=moments.stddev if moments.n else math.nan,
        zero_share=shown.zero_share,
        near_zero_share=shown.near_zero_share,
        outlier_share=shown.outlier_share,
        absmax=shown.absmax,
        kurtosis=shown.kurtosis,
        evidence=drift.evidence,
        active=drift.active,
        alarms=drift.alarms,
        alarm_ordinals=list(drift.alarm_ordinals),
        psi=effects.psi,
        jensen_shannon=effects.jensen_shannon,
        kolmogorov_smirnov=effects.kolmogorov_smirnov,
        wasserstein=effects.wasserstein,
        mean_shift=effects.mean_shift,
        frechet=effects.frechet,
        frechet_of_channel_means=effects.frechet_of_channel_means,
        no_drift_levels=effects.levels,
        times_level=effects.times_level,
        shifted_statistic=drift.shifted_statistic,
        worst_channels=list(drift.worst_channels),
        dead_channels=drift.instability.dead_channels,
        instability=drift.instability,
        between_requests=drift.between,
    )
