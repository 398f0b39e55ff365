"""Puts taps into a loaded model, checks that they change nothing, and ties what they see to drift."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from sidecar import capture
from sidecar.capture import UNKNOWN_DIMENSION, Drainer, Guard, Placement, Recorder, Reservoir
from sidecar.drift import DriftMonitor, Reference
from sidecar.errors import ModelError
from sidecar.replay import Replay
from sidecar.runtime import Runtime, vocabulary
from sidecar.runtime.examples import UNKNOWN_SIZE
from sidecar.runtime.trial import MODEL_FAULTS, attempt, batch_sizes
from sidecar.settings import ModelSettings, Settings
from sidecar.sketch import Reading
from sidecar.sketch.tap import OUTLIER
from sidecar.timeline import Strongest, Timeline
from sidecar.types import Clock, InferRequest, Tap, Tensor, TracedOutlier

_log = logging.getLogger("sidecar.models")


@dataclass(slots=True)
class Observation:
    """Everything that watches one model: present only when its self-check passed.

    silent: taps that saw nothing of the requests that were sampled last.
    outliers: the last of each tap in a request with a trace.
    strongest: the requests that drove each channel most. replay: of inputs, where some are kept.
    """

    taps: tuple[Tap, ...]
    recorder: Recorder
    timeline: Timeline
    monitor: DriftMonitor
    strongest: Strongest
    replay: Replay | None
    drainer: Drainer = field(init=False)
    silent: tuple[Tap, ...] = ()
    outliers: dict[Tap, TracedOutlier] = field(default_factory=dict)

    def stop(self, timeout: float) -> None:
        """Drain once more, and keep what drift has found where the settings say so."""
        self.drainer.stop(timeout)
        self.recorder.guard.shield("judge", self.monitor.keep, None)()


def observe(
    model: Runtime, settings: ModelSettings, everything: Settings, choose: capture.Choose, clock: Clock
) -> Observation:
    """Build the instrumented variant and check it: every tap fires, and the outputs are those of the plain one.

    Raises ConfigError for taps that match nothing, BaselineError for a baseline of something else, ModelError
    or InferenceError when the model cannot be observed.
    """
    points = capture.choose(model.tap_points(), settings.taps)
    names = [point.name for point in points]
    small, large = (
        attempt(settings, lambda batch: model.activation_shapes(names, batch), model.example(rows))
        for rows in (2, 3)
    )
    longer = None
    if settings.ragged:
        batch = model.example(2, UNKNOWN_SIZE + 1)
        longer = attempt(settings, lambda batch: model.activation_shapes(names, batch), batch)
    plan = capture.plan(points, small, large, batched=settings.batching.max_rows > 0, longer=longer)
    taps = tuple(placement.tap for placement in plan)
    slots = everything.capture.slots_on(settings.device)
    # A row of a model without a batch dimension is no request.
    logits = capture.logits_among(model.outputs if settings.batching.max_rows else (), settings.logits)
    recorder = Recorder(
        choose,
        Guard(),
        slots=slots,
        max_rows=settings.batching.max_rows,
        device=torch.device(settings.device),
        clock=clock,
        shared=settings.instances > 1,
        outputs=capture.Outputs(logits, slots) if logits else None,
        inputs=_reservoir(settings, everything, clock),
        parameters={capture.ROUTE, everything.drift.stratify_by},
    )
    if settings.ragged:
        recorder.tells_padding = _tells_padding(settings, plan)
    model.instrument(capture.observers(plan, recorder, slots=slots, near_zero=everything.capture.near_zero))
    for rows in batch_sizes(settings):
        _self_check(model, recorder, settings, rows)
    if not recorder.nanoseconds:
        # No tap reported its time: they are nodes of a graph.
        recorder.prices = capture.prices(plan, everything.capture.near_zero, recorder.bank.device)
    # Compiling kernels is a cost of starting, not of inference.
    recorder.opening = recorder.nanoseconds = 0
    timeline = Timeline(taps, everything.timeline.pane_seconds, everything.timeline.keep_panes, clock)
    reference = Reference.load(settings.baseline) if settings.baseline else None
    if reference:
        reference.check(settings.name, taps, everything.drift.stratify_by)
    monitor = DriftMonitor(
        settings.name,
        settings.version,
        taps,
        everything.drift,
        timeline,
        reference,
        np.random.default_rng(everything.drift.seed),
    )
    strongest = Strongest(taps, everything.drift.keep_request_ids)
    replay = _replay(model, settings, plan, recorder.inputs, everything.capture.near_zero)
    observation = Observation(taps, recorder, timeline, monitor, strongest, replay)

    def sink(reading: Reading) -> None:
        observation.silent = reading.silent
        observation.outliers = observation.outliers | reading.traced_outliers(OUTLIER)
        timeline.add(reading)
        strongest.add(reading)
        monitor.observe(reading)

    observation.drainer = Drainer(recorder, sink, everything.capture.drain_seconds, clock)
    return observation


def _reservoir(settings: ModelSettings, everything: Settings, clock: Clock) -> Reservoir | None:
    most = everything.console.keep_inputs
    if most and torch.device(settings.device).type != "cpu":
        _log.warning(
            "console.keep_inputs keeps none of %s: inputs are run again on a CPU only", settings.name
        )
        return None
    return Reservoir(most, random.Random(everything.drift.seed), clock) if most else None


def _replay(
    model: Runtime,
    settings: ModelSettings,
    plan: Sequence[Placement],
    reservoir: Reservoir | None,
    near_zero: float,
) -> Replay | None:
    if reservoir is None:
        return None
    words = vocabulary.read(settings.path) if settings.path else {}
    batched = settings.batching.max_rows > 0
    return Replay(model, plan, reservoir, batched=batched, near_zero=near_zero, words=words)


def _tells_padding(settings: ModelSettings, plan: Sequence[Placement]) -> bool:
    unknown = [placed.tap.module for placed in plan if placed.length_dim == UNKNOWN_DIMENSION]
    if settings.compile:
        why = "its taps are nodes of a compiled graph"
    elif unknown:
        why = f"its positions cannot be told at {', '.join(unknown)}"
    else:
        return True
    _log.warning("padded requests of %s are not observed: %s", settings.name, why)
    return False


def _self_check(model: Runtime, recorder: Recorder, settings: ModelSettings, rows: int) -> None:
    batch = model.example(rows)
    request = InferRequest("self-check", batch, rows)
    if not recorder.open([request], always=True):
        raise ModelError("the self-check could not record its own batch")
    try:
        observed = model.instrumented(batch)
    except MODEL_FAULTS as error:
        raise ModelError(f"the instrumented variant failed in the self-check: {error}") from error
    finally:
        recorder.close()
    plain = model.plain(batch)
    for name, expected in plain.items():
        difference = _largest_difference(expected, observed[name])
        if difference > settings.tolerance:
            raise ModelError(
                f"output {name} of the instrumented variant differs by {difference:g}, allowed {settings.tolerance:g}"
            )
    reading = recorder.drain(0.0)
    if silent := reading.silent if reading else tuple(recorder.states):
        raise ModelError(f"taps {[tap.module for tap in silent]} saw nothing in the self-check")


def _largest_difference(expected: Tensor, observed: Tensor) -> float:
    """0 when bitwise equal; infinity when shapes, datatypes or non-finite places differ."""
    left, right = expected.array, observed.array
    if left.shape != right.shape or left.dtype != right.dtype:
        return float("inf")
    if left.tobytes() == right.tobytes():
        return 0.0
    if expected.datatype == "BF16":
        left, right = ((array.astype(np.uint32) << 16).view(np.float32) for array in (left, right))
    if left.dtype.kind != "f":
        return float("inf")
    gap = np.abs(left.astype(np.float64) - right.astype(np.float64))
    return float(np.max(gap)) if np.isfinite(gap).all() else float("inf")
