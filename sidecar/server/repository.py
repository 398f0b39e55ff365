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
from sidecar.server.models import Models, check
from sidecar.server.status import ErrorsAsStatus, text_of
from sidecar.types import Lineup, Repository, Servable, ServingObserver, VersionPolicy, age

Context = grpc.aio.ServicerContext[Any, Any]
Key = tuple[str, str]


class RepositoryService:
    """Changes `models`, one change after the other, from what `repository` loads.

    batch: makes the batcher of a servable. permit: raises where admin calls are not allowed.
    changed: called after each change. observer: is told the state of each version.
    """

    def __init__(
        self,
        models: Models,
        repository: Repository | None,
        batch: Callable[[Servable], Batcher],
        permit: Callable[[], None],
        changed: Callable[[], Awaitable[None]],
        observer: ServingObserver,
    ) -> None:
        self._models = models
        self._repository = repository
        self._batch = batch
        self._permit = permit
        self._changed = changed
        self._one_at_a_time = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()
        self._observer = observer
        self._states: dict[Key, str] = {}
        self._reasons: dict[Key, str] = dict(repository.refused) if repository else {}
        self._closed = False
        for batcher in models:
            self._enter(_key(batcher.servable), None)

    async def RepositoryIndex(
        self, message: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        response = pb.RepositoryIndexResponse()
        async with ErrorsAsStatus(context, message):
            _one_repository(message.repository_name)
            known = {
                (name, version) for name, versions in (await self._known()).items() for version in versions
            }
        served = {_key(each.servable) for each in self._models}
        for key in sorted(served | known, key=lambda key: (key[0], age(key[1]))):
            state = self._state(key)
            if state == "READY" or not message.ready:
                reason = self._reasons.get(key, "" if state == "READY" else "unloaded")
                response.models.add(name=key[0], version=key[1], state=state, reason=reason)
        return response

    async def RepositoryModelLoad(
        self, message: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        async with ErrorsAsStatus(context, message):
            self._permit()
            repository, name = self._asked(message, await self._known())
            policy = asked_policy(message.parameters)
            await self._finish(self._load(repository, name, policy))
        return pb.RepositoryModelLoadResponse(model_name=name, isLoaded=True)

    async def RepositoryModelUnload(
        self, message: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        async with ErrorsAsStatus(context, message):
            self._permit()
            # What is served can be unloaded though its folder is gone.
            served = {each.servable.name: () for each in self._models}
            repository, name = self._asked(message, served | dict(await self._known()))
            await self._finish(self._unload(repository, name))
        return pb.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True)

    async def close(self) -> None:
        """Begin no more changes, and finish those that have begun."""
        self._closed = True
        await asyncio.gather(*self._changes, return_exceptions=True)

    async def _known(self) -> Mapping[str, Sequence[str]]:
        return await self._repository.versions() if self._repository else {}

    def _asked(
        self, message: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest, known: Iterable[str]
    ) -> tuple[Repository, str]:
        # KServe's clients write the model's name where Triton's write that of the repository.
        name = message.model_name or message.repository_name
        if message.model_name:
            _one_repository(message.repository_name)
        if self._repository is None:
            raise UnsupportedError("this server cannot load or unload models")
        if name not in known:
            raise UnknownModelError(f"no model {name!r} is configured, there are {_quoted(known)}")
        return self._repository, name

    async def _finish(self, change: Coroutine[Any, Any, None]) -> None:
        """A client that gives up does not leave a change half done."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def _load(self, repository: Repository, name: str, policy: VersionPolicy | None) -> None:
        """Load all that `policy` chooses, or the model's own, and let it take the place of all that is served of it."""
        async with self._one_at_a_time:
            self._check_open()
            versions = chosen_versions(await repository.read(name), policy)
            before = [each for each in self._models if each.servable.name == name]
            try:
                loaded = await self._all_loaded(repository, name, versions)
                for servable in loaded:
                    repository.serve(servable)
                    self._models.put(self._batch(servable))
            finally:
                for version in versions:
                    self._enter((name, version), None)
            for batcher in before:
                if batcher.servable.version not in versions:
                    self._models.remove(name, batcher.servable.version)
            await self._changed()
        await self._retire(repository, before)

    async def _all_loaded(
        self, repository: Repository, name: str, versions: Sequence[str]
    ) -> Sequence[Servable]:
        """All of them, or none stays loaded."""
        loaded: list[Servable] = []
        async with AsyncExitStack() as undo:
            for version in versions:
                loaded.append(await self._loaded(repository, name, version))
                undo.push_async_callback(repository.release, loaded[-1])
            self._check_open()
            undo.pop_all()
        return loaded

    async def _loaded(self, repository: Repository, name: str, version: str) -> Servable:
        key = name, version
        self._check_open()
        self._enter(key, "LOADING")
        self._reasons[key] = "the last load did not finish"
        try:
            servable = await repository.load(name, version)
            check(servable)
        except SidecarError as error:
            self._reasons[key] = text_of(error)
            raise
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
            key = _key(batcher.servable)
            self._enter(key, "UNLOADING")
            await batcher.close()
            await repository.release(batcher.servable)
            self._enter(key, None)

    def _enter(self, key: Key, state: str | None) -> None:
        """`state` counts while the version is not served; None is the end of it."""
        if state is None:
            self._states.pop(key, None)
        else:
            self._states[key] = state
        self._observer.model_state(*key, self._state(key))

    def _state(self, key: Key) -> str:
        if any(_key(batcher.servable) == key for batcher in self._models):
            return "READY"
        return self._states.get(key, "UNAVAILABLE")

    def _check_open(self) -> None:
        if self._closed:
            raise NotReadyError("the server is stopping, nothing more is loaded or unloaded")


def asked_policy(parameters: Mapping[str, pb.ModelRepositoryParameter]) -> VersionPolicy | None:
    """The `version_policy` of the parameter `config`; None without that.

    Raises InvalidInputError or UnsupportedError for anything else that is asked for.
    """
    if others := sorted(parameters.keys() - {"config"}):
        raise UnsupportedError(f"parameters {_quoted(others)} are not supported, only 'config' is")
    if "config" not in parameters:
        return None
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
        specific = tuple(dict.fromkeys(map(str, detail.get("versions", ()))))
        chosen = {
            "all": VersionPolicy(), "latest": VersionPolicy(latest), "specific": VersionPolicy(specific=specific),
        }[kind]  # fmt: skip
    except (ValueError, TypeError, LookupError, AttributeError):
        raise InvalidInputError(f"config must be {form}") from None
    if kind == "specific" and not specific:
        raise InvalidInputError(f"config names no version, must be {form}")
    return chosen


def chosen_versions(lineup: Lineup, policy: VersionPolicy | None) -> Sequence[str]:
    """What `policy` chooses, or without one the model's own. Raises InvalidInputError for one that is not there."""
    policy = policy or lineup.policy
    if not set(policy.specific) <= set(lineup.versions):
        raise InvalidInputError(
            f"versions {_quoted(policy.specific)} are asked for, there are {_quoted(lineup.versions)}"
        )
    return policy.choose(lineup.versions, lineup.canaries)


def _key(servable: Servable) -> Key:
    return servable.name, servable.version


def _one_repository(name: str) -> None:
    if name:
        raise UnsupportedError("there is one repository, which has no name: leave repository_name empty")


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
