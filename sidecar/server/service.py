"""The methods of inference.GRPCInferenceService."""

# ruff: noqa: N802 - gRPC finds the methods by the protocol's own names.

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

import grpc

import sidecar
from sidecar._pb import open_inference_pb2 as pb
from sidecar.errors import ConfigError, NotReadyError, UnknownModelError
from sidecar.server import codec
from sidecar.server.batching import Batcher
from sidecar.server.status import ErrorsAsStatus, code_of
from sidecar.types import Clock, Servable, ServingObserver, TensorSpec

Context = grpc.aio.ServicerContext[Any, Any]

# Ids need to differ, not to be secret, and a generator of our own asks the system once instead of each time.
_IDS = random.Random()


class InferenceService:
    """Answers for the models behind `batchers`, until `stopping` is set.

    clock: monotonic seconds, the batchers' own. new_id: the id of a request that came without one.
    Raises ConfigError for a model that batches but has an input without dimensions.
    """

    def __init__(
        self,
        batchers: Iterable[Batcher],
        observer: ServingObserver,
        clock: Clock = time.monotonic,
        new_id: Callable[[], str] = lambda: f"{_IDS.getrandbits(128):032x}",
    ) -> None:
        self.stopping = False
        self._observer = observer
        self._clock = clock
        self._new_id = new_id
        self._models: dict[str, dict[str, Batcher]] = {}
        for batcher in batchers:
            servable = batcher.servable
            _check(servable)
            self._models.setdefault(servable.name, {})[servable.version] = batcher
        self._latest = {name: max(versions, key=_age) for name, versions in self._models.items()}

    @property
    def ready(self) -> bool:
        """Every model takes requests."""
        batchers = [batcher for versions in self._models.values() for batcher in versions.values()]
        return not self.stopping and all(batcher.servable.ready for batcher in batchers)

    async def ServerLive(self, message: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, message: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self.ready)

    async def ModelReady(self, message: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        async with ErrorsAsStatus(context):
            servable = self._find(message.name, message.version).servable
        return pb.ModelReadyResponse(ready=servable.ready and not self.stopping)

    async def ServerMetadata(
        self, message: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="activation-sidecar", version=sidecar.__version__)

    async def ModelMetadata(
        self, message: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        async with ErrorsAsStatus(context):
            servable = self._find(message.name, message.version).servable
        return pb.ModelMetadataResponse(
            name=servable.name,
            versions=sorted(self._models[servable.name], key=_age),
            platform=servable.platform,
            inputs=_described(servable.inputs),
            outputs=_described(servable.outputs),
        )

    async def ModelInfer(self, message: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        async with ErrorsAsStatus(context):
            batcher = self._find(message.model_name, message.model_version)
            servable = batcher.servable
            with _Observed(self._observer, servable, context, self._clock) as started:
                if self.stopping or not servable.ready:
                    raise NotReadyError(f"model {servable.name!r} takes no requests now, try again later")
                remaining = context.time_remaining()
                request = codec.decode(
                    message,
                    servable,
                    id=message.id or self._new_id(),
                    deadline=None if remaining is None else started + remaining,
                )
                reply = await batcher.submit(request)
                return codec.encode(reply, message, servable, id=request.id)

    def _find(self, name: str, version: str) -> Batcher:
        versions = self._models.get(name)
        if versions is None:
            raise UnknownModelError(f"no model {name!r}, served are {_listed(self._models)}")
        batcher = versions.get(version or self._latest[name])
        if batcher is None:
            raise UnknownModelError(
                f"model {name!r} has no version {version!r}, served are {_listed(versions)}"
            )
        return batcher


class _Observed:
    """Reports one request to the observer; entering gives the time it started."""

    __slots__ = ("_clock", "_context", "_observer", "_servable", "_started")

    def __init__(self, observer: ServingObserver, servable: Servable, context: Context, clock: Clock) -> None:
        self._observer = observer
        self._servable = servable
        self._context = context
        self._clock = clock

    def __enter__(self) -> float:
        self._observer.request_started(self._servable.name, self._servable.version)
        self._started = self._clock()
        return self._started

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = grpc.StatusCode.OK if error is None else code_of(error)
        # gRPC cancels the handler both when the client gives up and when its deadline passes.
        if isinstance(error, asyncio.CancelledError) and self._context.time_remaining() == 0:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
        seconds = self._clock() - self._started
        self._observer.request_finished(self._servable.name, self._servable.version, code.name, seconds)


def _check(servable: Servable) -> None:
    scalars = [spec.name for spec in servable.inputs if not spec.shape]
    if servable.max_rows and scalars:
        raise ConfigError(
            f"model {servable.name} input {scalars[0]} has no dimension to batch over: "
            "give it one of -1, or set batching.max_rows = 0"
        )


def _age(version: str) -> tuple[int, str]:
    """Sorts numbers by size and after every word."""
    return (int(version), "") if version.isdecimal() else (-1, version)


def _described(specs: Sequence[TensorSpec]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
    return [
        pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        for spec in specs
    ]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
