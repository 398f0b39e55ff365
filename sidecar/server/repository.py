"""Loading and unloading versions while others, or the same, are served. No request is lost by it."""

# ruff: noqa: N802 - gRPC finds the methods by the protocol's own names.

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import grpc

from sidecar._pb import open_inference_pb2 as pb
from sidecar.errors import (
    InvalidInputError,
    NotReadyError,
    SidecarError,
    UnknownModelError,
    UnsupportedError,
)
from sidecar.server.batching import Batcher
from sidecar.server.models import Models, age, check
from sidecar.server.status import ErrorsAsStatus, text_of
from sidecar.types import Repository, Servable

Context = grpc.aio.ServicerContext[Any, Any]
Key = tuple[str, str]


class RepositoryService:
    """Changes `models`, one change after the other, from what `repository` loads.

    batch: makes the batcher of a servable. permit: raises where admin calls are not allowed.
    changed: called after each change.
    """

    def __init__(
        self,
        models: Models,
        repository: Repository | None,
        batch: Callable[[Servable], Batcher],
        permit: Callable[[], None],
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._models = models
        self._repository = repository
        self._batch = batch
        self._permit = permit
        self._changed = changed
        self._one_at_a_time = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()
        self._states: dict[Key, str] = {}
        self._reasons: dict[Key, str] = {}
        self._closed = False

    async def RepositoryIndex(
        self, message: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        response = pb.RepositoryIndexResponse()
        async with ErrorsAsStatus(context):
            _one_repository(message.repository_name)
        served = {(each.servable.name, each.servable.version) for each in self._models}
        known = {(name, version) for name, versions in self._known().items() for version in versions}
        for name, version in sorted(served | known, key=lambda key: (key[0], age(key[1]))):
            key = name, version
            state = "READY" if key in served else self._states.get(key, "UNAVAILABLE")
            if state == "READY" or not message.ready:
                reason = self._reasons.get(key, "" if key in served else "unloaded")
                response.models.add(name=name, version=version, state=state, reason=reason)
        return response

    async def RepositoryModelLoad(
        self, message: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        async with ErrorsAsStatus(context):
            repository, name = self._asked(message)
            versions = chosen_versions(self._known()[name], message.parameters)
            await self._finish(self._load(repository, name, versions))
        return pb.RepositoryModelLoadResponse(model_name=name, isLoaded=True)

    async def RepositoryModelUnload(
        self, message: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        async with ErrorsAsStatus(context):
            repository, name = self._asked(message)
            await self._finish(self._unload(repository, name))
        return pb.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True)

    async def close(self) -> None:
        """Begin no more changes, and finish those that have begun."""
        self._closed = True
        await asyncio.gather(*self._changes, return_exceptions=True)

    def _known(self) -> Mapping[str, Sequence[str]]:
        return self._repository.versions() if self._repository else {}

    def _asked(
        self, message: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest
    ) -> tuple[Repository, str]:
        self._permit()
        # KServe's clients write the model's name where Triton's write that of the repository.
        name = message.model_name or message.repository_name
        if message.model_name:
            _one_repository(message.repository_name)
        if self._repository is None:
            raise UnsupportedError("this server cannot load or unload models")
        if name not in self._known():
            raise UnknownModelError(f"no model {name!r} is configured, there are {_quoted(self._known())}")
        return self._repository, name

    async def _finish(self, change: Coroutine[Any, Any, None]) -> None:
        """A client that gives up does not leave a change half done."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def _load(self, repository: Repository, name: str, versions: Sequence[str]) -> None:
        """Load all of `versions`, then let them take the place of all that is served of the model."""
        async with self._one_at_a_time:
            loaded: list[Servable] = []
            async with AsyncExitStack() as undo:
                for version in versions:
                    loaded.append(await self._loaded(repository, name, version))
                    undo.push_async_callback(repository.release, loaded[-1])
                self._check_open()
                undo.pop_all()
            before = [each for each in self._models if each.servable.name == name]
            for servable in loaded:
                repository.serve(servable)
                self._models.put(self._batch(servable))
            for batcher in before:
                if batcher.servable.version not in versions:
                    self._models.remove(name, batcher.servable.version)
            await self._changed()
        await self._retire(repository, before)

    async def _loaded(self, repository: Repository, name: str, version: str) -> Servable:
        key = name, version
        self._check_open()
        self._states[key] = "LOADING"
        self._reasons[key] = "the last load did not finish"
        try:
            servable = await repository.load(name, version)
            check(servable)
        except SidecarError as error:
            self._reasons[key] = text_of(error)
            raise
        finally:
            del self._states[key]
        del self._reasons[key]
        return servable

    async def _unload(self, repository: Repository, name: str) -> None:
        async with self._one_at_a_time:
            self._check_open()
            before = [each for each in self._models if each.servable.name == name]
            for batcher in before:
                self._models.remove(name, batcher.servable.version)
            await self._changed()
        await self._retire(repository, before)

    async def _retire(self, repository: Repository, batchers: Sequence[Batcher]) -> None:
        """Answer what waits, then stop what ran it."""
        self._models.settle()
        for batcher in batchers:
            key = batcher.servable.name, batcher.servable.version
            self._states[key] = "UNLOADING"
            await batcher.close()
            await repository.release(batcher.servable)
            self._states.pop(key, None)

    def _check_open(self) -> None:
        if self._closed:
            raise NotReadyError("the server is stopping, nothing more is loaded or unloaded")


def chosen_versions(
    known: Sequence[str], parameters: Mapping[str, pb.ModelRepositoryParameter]
) -> Sequence[str]:
    """The versions out of `known` that the `version_policy` of the parameter `config` chooses; without it all.

    Raises InvalidInputError or UnsupportedError for anything else that is asked for.
    """
    if others := sorted(parameters.keys() - {"config"}):
        raise UnsupportedError(f"parameters {_quoted(others)} are not supported, only 'config' is")
    if "config" not in parameters:
        return known
    form = (
        '{"version_policy": POLICY}, where POLICY is {"all": {}}, {"latest": {"num_versions": N}} '
        'or {"specific": {"versions": [...]}}'
    )
    try:
        ((section, policy),) = json.loads(parameters["config"].string_param).items()
        ((kind, detail),) = policy.items()
        if section != "version_policy":
            raise UnsupportedError(f"config sets {section!r}, only version_policy can be set: {form}")
        latest = max(int(detail.get("num_versions", 1)), 1)
        specific = list(dict.fromkeys(map(str, detail.get("versions", ()))))
        ordered = sorted(known, key=age)
        asked = {"all": ordered, "latest": ordered[-latest:], "specific": specific}[kind]
    except (ValueError, TypeError, LookupError, AttributeError):
        raise InvalidInputError(f"config must be {form}") from None
    if not asked or not set(asked) <= set(known):
        raise InvalidInputError(f"versions {_quoted(asked)} are asked for, configured are {_quoted(known)}")
    return asked


def _one_repository(name: str) -> None:
    if name:
        raise UnsupportedError("there is one repository, which has no name: leave repository_name empty")


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
