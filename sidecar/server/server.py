"""The gRPC server: ports, limits, health, reflection, and the order of stopping."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from sidecar._pb import open_inference_pb2, open_inference_pb2_grpc, telemetry_pb2
from sidecar.errors import ConfigError, RequestError
from sidecar.server import admin, limits, listener, telemetry, tls
from sidecar.server.batching import Batcher
from sidecar.server.files import FromFiles
from sidecar.server.health import Health
from sidecar.server.memory import Regions, SharedMemoryService
from sidecar.server.metadata import MetadataService
from sidecar.server.models import Models
from sidecar.server.repository import RepositoryService
from sidecar.server.security import Access, Authorise, Tokens
from sidecar.server.service import InferenceService
from sidecar.server.statistics import Statistics
from sidecar.server.status import Metadata, log_failure
from sidecar.settings import BatchingSettings, ServerSettings
from sidecar.types import Clock, Repository, Servable, ServingObserver, Traced

logger = logging.getLogger("sidecar.server")

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"

REFRESH_SECONDS = 1.0
"""How often certificates and tokens are compared with their files."""


class Server:
    """Serves `servables` from `start` to `stop`, once.

    batching: settings by model name and version, for each servable and all that `repository` may load.
    wall: seconds since the epoch. ask: answers `sidecar.v1.ActivationTelemetry`; None leaves that service out.
    traced: see `types.Traced`; None where no trace is to be read.
    tokens, certificates: who is let in, for whatever else listens; kept up to date with their files from `start` on.
    Raises ConfigError where a certificate, key or token file cannot be read, or a model cannot be batched.
    """

    def __init__(
        self,
        settings: ServerSettings,
        servables: Sequence[Servable],
        batching: Mapping[tuple[str, str], BatchingSettings],
        observer: ServingObserver,
        repository: Repository | None = None,
        wall: Clock = time.time,
        ask: telemetry.Ask | None = None,
        traced: Traced | None = None,
    ) -> None:
        self._settings = settings
        self._ask = ask
        self.certificates = tls.certificates(settings)
        self.tokens = Tokens(settings)
        statistics = Statistics(observer, wall)
        self._ended = observer.call_ended

        def batch(servable: Servable) -> Batcher:
            return Batcher(servable, batching[servable.name, servable.version], statistics)

        self._models = Models(map(batch, servables))
        keys, permit = settings.shared_memory, admin.permit(settings.admin)
        regions = Regions(keys, settings.max_message_bytes) if keys else None
        self._service = InferenceService(self._models, statistics, regions, traced=traced)
        self._repository = RepositoryService(
            self._models, repository, batch, permit, self.refresh_health, statistics
        )
        self._parts = (
            self._service,
            MetadataService(self._models, batching, statistics, shared_memory=regions is not None),
            self._repository,
            SharedMemoryService(regions, permit),
            admin.SettingsService(self._models, permit, logging.getLogger("sidecar")),
        )

    @property
    def files(self) -> list[FromFiles[Any]]:
        """What is read again when it changes."""
        return [*self.tokens.files, *([self.certificates] if self.certificates else [])]

    async def start(self) -> int:
        """Listen, and return the port. Raises ConfigError where address or certificate cannot be used."""
        settings = self._settings
        self._health = Health()
        elsewhere = settings.admin_listen is not None
        main = self._listener(Access(self.tokens, takes_admin=settings.admin, elsewhere=elsewhere))
        self._listeners = [main]
        await self.refresh_health()
        host = settings.grpc_host
        port = self._bind(main, host, settings.grpc_port, "server.grpc_host and grpc_port")
        if settings.admin_listen:
            own = self._listener(Access(self.tokens, takes_admin=True, elsewhere=False))
            self._listeners.append(own)
            self.admin_port = self._bind_admin(own, settings.admin_listen)
        for one in self._listeners:
            await one.start()
        self._refreshing = asyncio.create_task(self._refresh())
        return port

    def _listener(self, access: Access) -> Any:
        server = listener.create(
            _logged(access.authorise),
            limits.channel_arguments(self._settings),
            {f"/{SERVICE}/ModelInfer": self._service.infer_directly},
            ended=self._ended,
        )
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Joined(self._parts), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._ask:
            telemetry.register(server, self._ask)
        if self._settings.reflection:
            names = [SERVICE, HEALTH, reflection.SERVICE_NAME]
            names += [telemetry.SERVICE.full_name] if self._ask else []
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
                reflection.aio.ReflectionServicer(names, _described_services()),  # type: ignore[attr-defined]
                server,
            )
        return server

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await asyncio.to_thread(self.refresh)

    def refresh(self) -> None:
        """Read again what has changed. It goes by itself while the server runs."""
        for one in self.files:
            one.refresh()

    async def refresh_health(self) -> None:
        """Tell the health service's watchers; to be called after `ready` of a servable has changed."""
        status = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            await self._health.set(name, status.SERVING if self._service.ready else status.NOT_SERVING)

    async def leave(self) -> None:
        """Say not ready and go on answering, so that whoever looks at readiness has time to go elsewhere."""
        self._service.leaving = True
        await self._health.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Say not ready, refuse new requests, finish those already in.

        Calls get `grace_seconds` and are then cancelled; a batch that still runs gets as much again.
        """
        await self.leave()
        self._service.stopping = True
        self._service.streams.close()
        self._health.close()
        self._refreshing.cancel()
        await asyncio.gather(*(one.stop(self._settings.grace_seconds) for one in self._listeners))
        try:
            async with asyncio.timeout(self._settings.grace_seconds):
                closing = [batcher.close() for batcher in self._models]
                await asyncio.gather(self._repository.close(), *closing)
        except TimeoutError:
            logger.warning("a model still ran %s s after the last call ended", self._settings.grace_seconds)

    def _bind_admin(self, server: Any, listen: str) -> int:
        if not listen.startswith("unix:"):
            host, _, port = listen.rpartition(":")
            return self._bind(server, host.strip("[]"), int(port), "server.admin_listen")
        # Nobody but the account that runs the server may connect, and there is no moment in which others could.
        before = os.umask(0o177)
        try:
            return self._bind(server, listen, 0, "server.admin_listen")
        finally:
            os.umask(before)

    def _bind(self, server: Any, host: str, port: int, setting: str) -> int:
        local = host.startswith("unix:")
        address = host if local else f"{f'[{host}]' if ':' in host else host}:{port}"
        try:
            if local and _answers(host.removeprefix("unix:")):
                # The core would take the path away from whoever listens there.
                raise RuntimeError("somebody listens there")
            if self.certificates is None or local:
                return int(server.add_insecure_port(address))
            return int(server.add_secure_port(address, self.certificates.credentials()))
        except RuntimeError as error:
            raise ConfigError(
                f"{setting}: cannot listen on {address}: it is taken or not this machine's"
            ) from error


def _logged(authorise: Authorise) -> Authorise:
    def logged(method: str, metadata: Metadata) -> RequestError | None:
        refusal = authorise(method, metadata)
        if refusal is not None:
            log_failure(refusal, metadata, method=method)
        return refusal

    return logged


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


class _Joined:
    """One servicer out of parts: the generated registration asks one object for every method."""

    def __init__(self, parts: Sequence[object]) -> None:
        self._parts = parts

    def __getattr__(self, name: str) -> Any:
        for part in self._parts:
            if hasattr(part, name):
                return getattr(part, name)
        raise AttributeError(name)


def _described_services() -> DescriptorPool:
    """What reflection may show. Ours live in a pool of their own, the standard services in protobuf's."""
    pool = DescriptorPool()
    for module in (open_inference_pb2, telemetry_pb2, health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return pool
