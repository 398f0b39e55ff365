"""Composition root: builds every part from the settings, starts them in order and stops them in reverse."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, ProcessCollector

from sidecar import otel
from sidecar.console.access import Access, names_us
from sidecar.console.http import Standing, application
from sidecar.console.server import HttpServer
from sidecar.errors import ConfigError
from sidecar.export.activations import ActivationCollector
from sidecar.export.exposition import Exposition
from sidecar.export.files import StaleFiles
from sidecar.export.gpu import GpuMemory
from sidecar.export.serving import ServingMetrics
from sidecar.export.triton import TritonNames
from sidecar.model import STOP_SECONDS, Model
from sidecar.recall import Memory
from sidecar.runtime.memory import gpu_memory
from sidecar.server.security import Role
from sidecar.server.server import Server
from sidecar.settings import Settings
from sidecar.types import Clock, Trace, Traced
from sidecar.versions import Versions


class Sidecar:
    """All of it. Building loads and checks the models; `start` opens the ports; `stop` closes them in order.

    Raises ConfigError, ModelError or BaselineError while building.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self._versions = Versions(settings, clock)
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        watched = self._versions.watched
        self._memory = Memory(settings, watched, clock)
        self._memory.register(registry)
        self._versions.remember(self._memory.remember)
        window, exemplars = settings.drift.window_seconds, settings.export.exemplars
        registry.register(
            ActivationCollector(watched, window, settings.export.max_series, exemplars=exemplars)
        )
        serving = ServingMetrics(self._versions.known, registry, clock)
        if settings.export.triton_names:
            registry.register(TritonNames(serving))
        self._push = otel.create(settings.otel, registry)
        self._grpc = Server(
            settings.server,
            [model.servable for model in self.models],
            self._versions.batching,
            serving,
            self._versions,
            clock,
            self._memory.ask,
            self._traced(serving),
        )
        tokens, certificates = self._grpc.tokens, self._grpc.certificates
        registry.register(StaleFiles(self._stale))
        registry.register(GpuMemory(gpu_memory))
        console = application(
            Exposition(registry, settings.capture.drain_seconds),
            Standing(
                watched,
                stale=lambda: [name for name, stale in self._stale().items() if stale],
                leaving=lambda: self._leaving,
            ),
            Access(
                admits=lambda authorization: tokens.role(authorization) is not Role.NOBODY,
                sees_inputs=lambda authorization: tokens.role(authorization) is Role.ADMIN,
                names_us=names_us(settings.server),
            ),
            self._memory.routes(),
        )
        self._http = HttpServer(console, settings.server, certificates.context() if certificates else None)
        self._leaving = False
        self.grpc_port = self.http_port = 0

    def _traced(self, serving: ServingMetrics) -> Traced | None:
        """Whoever wants to know of requests with a trace."""
        wanted: list[Traced] = [serving.traced] if self.settings.export.exemplars else []
        if self._push and self.settings.otel.traces:
            wanted.append(self._push.spans.traced)
        if len(wanted) < 2:
            return wanted[0] if wanted else None

        def traced(model: str, version: str, code: str, seconds: float, trace: Trace) -> None:
            for one in wanted:
                one(model, version, code, seconds, trace)

        return traced

    def _stale(self) -> dict[str, bool]:
        """Settings that name files -> whether these have changed and cannot be used."""
        return {one.name: bool(one.problem) for one in self._grpc.files}

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
        self._memory.start()
        if self._push:
            self._push.start()
        for model in self.models:
            model.start()
        await self._grpc.refresh_health()

    async def leave(self) -> None:
        """Turn readiness false and go on answering, until `stop`."""
        self._leaving = True
        await self._grpc.leave()

    async def stop(self) -> None:
        """Finish what is in flight, drain telemetry once more, close the ports."""
        await self.leave()
        await self._grpc.stop()
        for model in self.models:
            await model.stop()
        if self._push:
            await asyncio.to_thread(self._push.stop, STOP_SECONDS)
        await asyncio.to_thread(self._http.stop, STOP_SECONDS)
        await asyncio.to_thread(self._memory.stop, STOP_SECONDS)
