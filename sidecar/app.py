"""Composition root: builds every part from the settings, starts them in order and stops them in reverse."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

import numpy as np
import torch
from prometheus_client import CollectorRegistry

from sidecar import capture, runtime
from sidecar.capture import Drainer, Governor, Guard, Recorder, Spending
from sidecar.console.http import application
from sidecar.console.server import HttpServer
from sidecar.drift import DriftMonitor, Reference
from sidecar.errors import ConfigError, InferenceError, LoadError, ModelError, SidecarError
from sidecar.export.activations import ActivationCollector, Watched
from sidecar.export.serving import ServingMetrics
from sidecar.runtime import Runtime
from sidecar.runtime.executor import Executor
from sidecar.runtime.trial import MODEL_FAULTS, attempt, batch_sizes, warm_up
from sidecar.server.security import bearer_token
from sidecar.server.server import Server
from sidecar.settings import ModelSettings, Settings
from sidecar.sketch import Reading
from sidecar.timeline import Timeline
from sidecar.types import Clock, InferRequest, Servable, Tap, TelemetryStatus, Tensor

_log = logging.getLogger("sidecar.app")

STOP_SECONDS = 5.0


@dataclass(slots=True)
class Observation:
    """Everything that watches one model: present only when its self-check passed.

    silent: taps that saw nothing of the requests that were sampled last.
    """

    taps: tuple[Tap, ...]
    recorder: Recorder
    timeline: Timeline
    monitor: DriftMonitor
    drainer: Drainer = field(init=False)
    silent: tuple[Tap, ...] = ()


class Model:
    """One model version: its runtime, its executor and, if all went well, its observation.

    detail: why it is not observed, "" if it is.
    """

    def __init__(self, settings: ModelSettings, everything: Settings, clock: Clock) -> None:
        self.settings = settings
        self.runtime = runtime.load(settings)
        self.batched = settings.batching.max_rows > 0
        self.detail = "capture.enabled is false"
        self.observation: Observation | None = None
        self.governor = Governor(everything.capture, self._spending, clock)
        usual = warm_up(self.runtime, settings)
        if everything.capture.enabled:
            self._observe(everything, clock)
        self.executor = Executor(
            self.runtime,
            self.observation.recorder if self.observation else None,
            everything.capture.patience_ms / 1000,
            batched=self.batched,
            usual=usual,
        )
        self._inference_seconds = 0.0
        self.servable = Servable(
            settings.name,
            settings.version,
            self.runtime.platform,
            self.runtime.inputs,
            self.runtime.outputs,
            settings.batching.max_rows,
            self.executor.start,
        )

    def _observe(self, everything: Settings, clock: Clock) -> None:
        """Instrument and check. A model that cannot be observed is served plain; a wrong setting is refused."""
        try:
            self.observation = observe(self.runtime, self.settings, everything, self.governor.sample, clock)
            self.detail = ""
        except (ModelError, InferenceError) as error:
            self.detail = str(error)
            _log.error("%s is served without telemetry: %s", self.settings.name, error)

    def status(self) -> TelemetryStatus:
        if self.observation is None:
            return TelemetryStatus(False, self.detail, inference_seconds=self.executor.seconds)
        recorder, silent = self.observation.recorder, self.observation.silent
        spending = self._spending()
        # A tap reports before the run around it does, and a counter must not fall.
        self._inference_seconds = max(self._inference_seconds, spending.inference)
        return TelemetryStatus(
            True,
            f"taps {[tap.module for tap in silent]} saw nothing of the last sampled requests"
            if silent
            else "",
            sample_rate=self.governor.rate,
            sampled=recorder.sampled,
            refused=self.governor.refused,
            dropped=dict(recorder.dropped),
            failures=dict(recorder.guard.failures),
            silent=silent,
            telemetry_seconds=spending.taps + spending.drain,
            inference_seconds=self._inference_seconds,
            last_drain=self.observation.drainer.last,
        )

    def _spending(self) -> Spending:
        if self.observation is None:
            return Spending(self.executor.seconds, 0.0, 0.0)
        recorder = self.observation.recorder
        taps, charged = recorder.nanoseconds / 1e9, recorder.charged / 1e9
        return Spending(
            self.executor.seconds - taps - charged, taps, self.observation.drainer.seconds + charged
        )

    @property
    def key(self) -> tuple[str, str]:
        return self.settings.name, self.settings.version

    def start(self) -> None:
        """Take requests, and take sketches off the device from now on."""
        if self.observation:
            self.observation.drainer.start()
        self.servable.ready = True

    async def stop(self) -> None:
        """Drain telemetry once more; to be called when nothing is in flight."""
        started, self.servable.ready = self.servable.ready, False
        self.executor.close()
        if self.observation and started:
            await asyncio.to_thread(self.observation.drainer.stop, STOP_SECONDS)
            keep = self.observation.recorder.guard.shield("judge", self.observation.monitor.keep, None)
            await asyncio.to_thread(keep)

    def watched(self) -> Watched:
        observation = self.observation
        return Watched(
            self.settings.name,
            self.settings.version,
            lambda: self.servable.ready,
            self.status,
            observation.timeline if observation else None,
            observation.monitor if observation else None,
        )


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
    plan = capture.plan(points, small, large, batched=settings.batching.max_rows > 0)
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
        outputs=capture.Outputs(logits, slots) if logits else None,
    )
    model.instrument(capture.observers(plan, recorder, slots=slots, near_zero=everything.capture.near_zero))
    for rows in batch_sizes(settings):
        _self_check(model, recorder, settings, rows)
    if not recorder.nanoseconds:
        # No tap reported its time: they are nodes of a graph.
        recorder.prices = capture.prices(plan, everything.capture.near_zero, recorder.bank.device)
    # Compiling kernels is a cost of starting, not of inference.
    recorder.nanoseconds = 0
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
    observation = Observation(taps, recorder, timeline, monitor)

    def sink(reading: Reading) -> None:
        observation.silent = reading.silent
        timeline.add(reading)
        monitor.observe(reading)

    observation.drainer = Drainer(recorder, sink, everything.capture.drain_seconds, clock)
    return observation


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


class Versions:
    """The configured versions, loaded or not: a `types.Repository`.

    models: those that are served, in the order of the settings. watched: the same as exporters see them; one list
    for good, which they read from their own thread.
    Raises ConfigError, ModelError or BaselineError where one that is loaded from the start cannot be.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self.models = [Model(model, settings, clock) for model in settings.models if model.load]
        self.watched = [model.watched() for model in self.models]
        self._running = list(self.models)

    def versions(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for model in self._settings.models:
            found.setdefault(model.name, []).append(model.version)
        return found

    async def load(self, model: str, version: str) -> Servable:
        """See `types.Repository`. A version that fails its self-check is refused: what it was to replace goes on."""
        (settings,) = [one for one in self._settings.models if (one.name, one.version) == (model, version)]
        named = f"model {model!r} version {version!r}"
        try:
            loaded = await asyncio.to_thread(Model, settings, self._settings, self._clock)
        except SidecarError as error:
            _log.error("%s cannot be loaded: %s", named, error)
            raise LoadError(f"{named} cannot be loaded; the log says why") from error
        if self._settings.capture.enabled and loaded.observation is None:
            await loaded.stop()
            raise LoadError(f"{named} failed its self-check and takes no traffic; the log says why")
        self._running.append(loaded)
        return loaded.servable

    def serve(self, servable: Servable) -> None:
        model = self._of(servable)
        others = [one for one in self.models if one.key != model.key]
        order = [(one.name, one.version) for one in self._settings.models]
        self._show(sorted([*others, model], key=lambda one: order.index(one.key)))
        model.start()

    async def release(self, servable: Servable) -> None:
        model = self._of(servable)
        self._running.remove(model)
        self._show([one for one in self.models if one is not model])
        await model.stop()

    def _of(self, servable: Servable) -> Model:
        (model,) = [one for one in self._running if one.servable is servable]
        return model

    def _show(self, models: list[Model]) -> None:
        self.models = models
        self.watched[:] = [model.watched() for model in models]


class Sidecar:
    """All of it. Building loads and checks the models; `start` opens the ports; `stop` closes them in order.

    Raises ConfigError, ModelError or BaselineError while building.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self._versions = Versions(settings, clock)
        registry = CollectorRegistry()
        watched = self._versions.watched
        window = settings.drift.window_seconds
        registry.register(ActivationCollector(watched, window, settings.export.max_series))
        names = [(model.name, model.version) for model in settings.models]
        self._grpc = Server(
            settings.server,
            [model.servable for model in self.models],
            {(model.name, model.version): model.batching for model in settings.models},
            ServingMetrics(names, registry),
            self._versions,
            clock,
        )
        token = bearer_token(settings.server)
        self._http = HttpServer(application(registry, watched, window, token), settings.server)
        self.grpc_port = self.http_port = 0

    @property
    def models(self) -> list[Model]:
        """Those that are served."""
        return self._versions.models

    async def start(self) -> None:
        """Open both ports and take requests. Raises ConfigError when a port cannot be bound."""
        self.grpc_port = await self._grpc.start()
        try:
            self.http_port = self._http.start()
        except ConfigError:
            await self._grpc.stop()
            raise
        for model in self.models:
            model.start()
        await self._grpc.refresh_health()

    async def stop(self) -> None:
        """Finish what is in flight, drain telemetry once more, close the ports."""
        await self._grpc.stop()
        for model in self.models:
            await model.stop()
        await asyncio.to_thread(self._http.stop, STOP_SECONDS)
