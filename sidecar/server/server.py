"""The gRPC server: ports, limits, health, reflection, and the order of stopping."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from sidecar._pb import open_inference_pb2, open_inference_pb2_grpc
from sidecar.errors import ConfigError
from sidecar.server import admin, listener, security
from sidecar.server.batching import Batcher
from sidecar.server.memory import Regions, SharedMemoryService
from sidecar.server.metadata import MetadataService
from sidecar.server.models import Models
from sidecar.server.repository import RepositoryService
from sidecar.server.service import InferenceService
from sidecar.server.statistics import Statistics
from sidecar.settings import BatchingSettings, ServerSettings
from sidecar.types import Clock, Repository, Servable, ServingObserver

logger = logging.getLogger("sidecar.server")

SERVICE = "inference.GRPCInferenceService"


class Server:
    """Serves `servables` from `start` to `stop`, once.

    batching: settings by model name and version, for each servable and all that `repository` may load.
    wall: seconds since the epoch.
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
    ) -> None:
        self._settings = settings
        self._credentials = security.credentials(settings)
        self._token = security.bearer_token(settings)
        statistics = Statistics(observer, wall)

        def batch(servable: Servable) -> Batcher:
            return Batcher(servable, batching[servable.name, servable.version], statistics)

        self._models = Models(map(batch, servables))
        keys, permit = settings.shared_memory, admin.permit(settings.admin)
        regions = Regions(keys, settings.max_message_bytes) if keys else None
        self._service = InferenceService(self._models, statistics, regions)
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

    async def start(self) -> int:
        """Listen, and return the port. Raises ConfigError where address or certificate cannot be used."""
        limit = self._settings.max_message_bytes
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs lack it
        self._grpc = listener.create(
            security.BearerToken(self._token).authorise if self._token else None,
            [
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
                # Otherwise a second server on the same port starts in silence and takes half the traffic.
                ("grpc.so_reuseport", 0),
            ],
            {f"/{SERVICE}/ModelInfer": self._service.infer_directly},
        )
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Joined(self._parts), self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        if self._settings.reflection:
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
                reflection.aio.ReflectionServicer(names, _described_services()),  # type: ignore[attr-defined]
                self._grpc,
            )
        await self.refresh_health()
        port = self._bind()
        await self._grpc.start()
        return port

    async def refresh_health(self) -> None:
        """Tell the health service's watchers; to be called after `ready` of a servable has changed."""
        status = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            await self._health.set(name, status.SERVING if self._service.ready else status.NOT_SERVING)

    async def stop(self) -> None:
        """Say not ready, refuse new requests, finish those already in.

        Calls get `grace_seconds` and are then cancelled; a batch that still runs gets as much again.
        """
        self._service.stopping = True
        self._service.streams.close()
        await self._health.enter_graceful_shutdown()
        await self._grpc.stop(self._settings.grace_seconds)
        try:
            async with asyncio.timeout(self._settings.grace_seconds):
                closing = [batcher.close() for batcher in self._models]
                await asyncio.gather(self._repository.close(), *closing)
        except TimeoutError:
            logger.warning("a model still ran %s s after the last call ended", self._settings.grace_seconds)

    def _bind(self) -> int:
        host = self._settings.grpc_host
        address = f"{f'[{host}]' if ':' in host else host}:{self._settings.grpc_port}"
        try:
            if self._credentials is None:
                return int(self._grpc.add_insecure_port(address))
            return int(self._grpc.add_secure_port(address, self._credentials))
        except RuntimeError as error:
            reason = "it is taken or not this machine's"
            if self._credentials is not None:
                reason += ", or server.tls_certificate and tls_key are no PEM pair"
            raise ConfigError(
                f"server.grpc_host and grpc_port: cannot listen on {address}: {reason}"
            ) from error


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
    for module in (open_inference_pb2, health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return pool
