"""Methods that describe the server and its models and change nothing."""

# ruff: noqa: N802 - gRPC finds the methods by the protocol's own names.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc

import sidecar
from sidecar._pb import open_inference_pb2 as pb
from sidecar.server.models import Models
from sidecar.server.statistics import Statistics
from sidecar.server.status import ErrorsAsStatus
from sidecar.settings import BatchingSettings
from sidecar.types import Servable, TensorSpec

Context = grpc.aio.ServicerContext[Any, Any]

EXTENSIONS = (
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
    "logging",
    "trace",
)
"""Triton's names of the extensions that are always there; shared memory has to be configured."""


class MetadataService:
    """Describes what `models` holds at the moment of the call."""

    def __init__(
        self,
        models: Models,
        batching: Mapping[tuple[str, str], BatchingSettings],
        statistics: Statistics,
        *,
        shared_memory: bool,
    ) -> None:
        self._models = models
        self._batching = batching
        self._statistics = statistics
        self._extensions = [*EXTENSIONS, "system_shared_memory"] if shared_memory else EXTENSIONS

    async def ServerMetadata(
        self, message: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name="activation-sidecar", version=sidecar.__version__, extensions=self._extensions
        )

    async def ModelMetadata(
        self, message: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        async with ErrorsAsStatus(context, message):
            servable = self._models.find(message.name, message.version).servable
        return pb.ModelMetadataResponse(
            name=servable.name,
            versions=self._models.versions(servable.name),
            platform=servable.platform,
            inputs=_described(servable.inputs),
            outputs=_described(servable.outputs),
        )

    async def ModelConfig(self, message: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        async with ErrorsAsStatus(context, message):
            servable = self._models.find(message.name, message.version).servable
        batching = self._batching[servable.name, servable.version]
        return pb.ModelConfigResponse(config=configuration(servable, batching))

    async def ModelStatistics(
        self, message: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        async with ErrorsAsStatus(context, message):
            servables = [each.servable for each in self._models.matching(message.name, message.version)]
        return pb.ModelStatisticsResponse(
            model_stats=[self._statistics.message(each.name, each.version) for each in servables]
        )


def configuration(servable: Servable, batching: BatchingSettings) -> pb.ModelConfig:
    """What Triton would call the model's configuration, as far as it means something here."""
    first = 1 if servable.max_rows else 0
    config = pb.ModelConfig(
        name=servable.name,
        platform=servable.platform,
        max_batch_size=servable.max_rows,
        input=[
            pb.ModelInput(name=spec.name, data_type=_type(spec.datatype), dims=spec.shape[first:])
            for spec in servable.inputs
        ],
        output=[
            pb.ModelOutput(name=spec.name, data_type=_type(spec.datatype), dims=spec.shape[first:])
            for spec in servable.outputs
        ],
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=servable.decoupled),
    )
    if servable.max_rows:
        config.dynamic_batching.max_queue_delay_microseconds = round(batching.max_delay_ms * 1000)
        config.dynamic_batching.priority_levels = batching.priority_levels
        config.dynamic_batching.default_priority_level = batching.priority_levels
        config.dynamic_batching.default_queue_policy.allow_timeout_override = True
        config.dynamic_batching.default_queue_policy.max_queue_size = batching.queue_requests
    return config


def _type(datatype: str) -> pb.DataType:
    return pb.DataType.Value("TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}")


def _described(specs: Sequence[TensorSpec]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
    return [
        pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        for spec in specs
    ]
