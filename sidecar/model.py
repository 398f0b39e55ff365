"""One model version: its runtime, its executor and, if all went well, its observation."""

from __future__ import annotations

import asyncio
import logging
import time

from sidecar import runtime
from sidecar.capture import Governor, Spending
from sidecar.errors import InferenceError, ModelError
from sidecar.export.activations import Watched
from sidecar.observation import Observation, observe
from sidecar.runtime import Runtime
from sidecar.runtime.executor import Executor
from sidecar.runtime.memory import must_fit
from sidecar.runtime.trial import warm_up
from sidecar.settings import ModelSettings, Settings
from sidecar.types import Clock, Servable, TelemetryStatus

_log = logging.getLogger("sidecar.models")

STOP_SECONDS = 5.0


class Model:
    """Loaded, warmed up and checked when it is made.

    loaded: what runs it, where it is there already.
    detail: why it is not observed, "" if it is. wanted: whether it was to be. load_seconds: what making it took.
    Raises ConfigError, ModelError or BaselineError.
    """

    def __init__(
        self, settings: ModelSettings, everything: Settings, clock: Clock, loaded: Runtime | None = None
    ) -> None:
        started = time.perf_counter()
        self.settings = settings
        self.batched = settings.batching.max_rows > 0
        self.detail = "capture.enabled is false"
        self.observation: Observation | None = None
        self.governor = Governor(everything.capture, self._spending, clock)
        with must_fit(f"model {settings.name}"):
            self.runtime = loaded or runtime.load(settings)
            usual = warm_up(self.runtime, settings)
        self.wanted = everything.capture.enabled
        if self.wanted:
            self._observe(everything, clock)
        self.executor = Executor(
            self.runtime,
            self.observation.recorder if self.observation else None,
            everything.capture.patience_ms / 1000,
            batched=self.batched,
            usual=usual,
            instances=settings.instances,
            ragged=settings.ragged,
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
            instances=settings.instances,
            canary=settings.canary.get(settings.version),
            canary_key=settings.canary_key,
            refuse_nonfinite=settings.refuse_nonfinite,
            ragged=settings.ragged,
        )
        self.load_seconds = time.perf_counter() - started

    def _observe(self, everything: Settings, clock: Clock) -> None:
        """Instrument and check. A model that cannot be observed is served plain; a wrong setting is refused."""
        try:
            with must_fit(f"the telemetry of {self.settings.name}"):
                self.observation = observe(
                    self.runtime, self.settings, everything, self.governor.sample, clock
                )
            self.detail = ""
        except (ModelError, InferenceError) as error:
            self.detail = str(error)
            _log.error("%s is served without telemetry: %s", self.settings.name, error)

    def status(self) -> TelemetryStatus:
        if self.observation is None:
            return TelemetryStatus(
                False, self.detail, inference_seconds=self.executor.seconds, wanted=self.wanted
            )
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
            telemetry_seconds=spending.choosing + spending.taps + spending.drain,
            inference_seconds=self._inference_seconds,
            last_drain=self.observation.drainer.last,
            budget=self.governor.budget,
        )

    def _spending(self) -> Spending:
        if self.observation is None:
            return Spending(self.executor.seconds, 0.0, 0.0)
        recorder = self.observation.recorder
        taps, charged = recorder.nanoseconds / 1e9, recorder.charged / 1e9
        return Spending(
            self.executor.seconds - taps - charged,
            taps,
            self.observation.drainer.seconds + charged,
            recorder.opening / 1e9,
        )

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
            await asyncio.to_thread(self.observation.stop, STOP_SECONDS)
            self.observation.timeline.close()

    def watched(self) -> Watched:
        observation = self.observation
        return Watched(
            self.settings.name,
            self.settings.version,
            lambda: self.servable.ready,
            self.status,
            self.load_seconds,
            self.runtime.weight_bytes,
            observation.timeline if observation else None,
            observation.monitor if observation else None,
            (lambda: observation.outliers) if observation else dict,
            observation.strongest if observation else None,
            observation.replay if observation else None,
        )
