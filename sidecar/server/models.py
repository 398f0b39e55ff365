"""The model versions that take requests now."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

from sidecar._pb import open_inference_pb2 as pb
from sidecar.errors import ConfigError, UnknownModelError
from sidecar.server.batching import Batcher
from sidecar.server.canary import Split
from sidecar.types import Servable, age


class Models:
    """Batchers by name and version. Changed on one event loop; other threads may look meanwhile.

    admission: held by any other thread from `route` until the request is queued.

    Raises ConfigError for a model that batches but has an input without dimensions.
    """

    def __init__(self, batchers: Iterable[Batcher] = ()) -> None:
        self.admission = threading.Lock()
        self._models: dict[str, dict[str, Batcher]] = {}
        self._steady: dict[str, Batcher] = {}
        self._splits: dict[str, Split] = {}
        for batcher in batchers:
            self.put(batcher)

    def __iter__(self) -> Iterator[Batcher]:
        return iter([self._models[name][version] for name in self._models for version in self.versions(name)])

    def put(self, batcher: Batcher) -> Batcher | None:
        """`batcher` takes requests from now on; the one that did so for its version, if any, takes no more."""
        servable = batcher.servable
        check(servable)
        versions = self._models.setdefault(servable.name, {})
        before = versions.get(servable.version)
        versions[servable.version] = batcher
        self._divide(servable.name)
        return before

    def remove(self, name: str, version: str) -> Batcher:
        """Its batcher, which takes no more requests. Raises UnknownModelError."""
        batcher = self.find(name, version)
        del self._models[name][version]
        self._divide(name)
        return batcher

    def _divide(self, name: str) -> None:
        """Say anew who answers requests that name no version."""
        versions = [self._models[name][version] for version in self.versions(name)]
        if not versions:
            del self._models[name], self._steady[name], self._splits[name]
            return
        steady = ([one for one in versions if one.servable.canary is None] or versions)[-1]
        self._splits[name] = Split(versions, steady)
        self._steady[name] = steady

    def route(self, message: pb.ModelInferRequest, id: str) -> Batcher:
        """Who answers a request of that id: the version that it names, or one by the canaries' shares.

        Raises UnknownModelError, which lists what is served.
        """
        split = self._splits.get(message.model_name)
        if not split or message.model_version:
            return self.find(message.model_name, message.model_version)
        if split.key and split.key in message.parameters:
            parameter = message.parameters[split.key]
            chosen = parameter.WhichOneof("parameter_choice") or "string_param"
            return split.choose(str(getattr(parameter, chosen)))
        return split.choose(id)

    def find(self, name: str, version: str) -> Batcher:
        """That version, or for "" the highest that is no canary. Raises UnknownModelError, as `route` does."""
        batcher = self._models.get(name, {}).get(version) if version else self._steady.get(name)
        if batcher is not None:
            return batcher
        if name not in self._models:
            raise UnknownModelError(f"no model {name!r}, served are {_listed(self._models)}")
        raise UnknownModelError(
            f"model {name!r} has no version {version!r}, served are {_listed(self._models[name])}"
        )

    def matching(self, name: str, version: str) -> list[Batcher]:
        """All versions of all models for "", all of one model for its name alone. Raises UnknownModelError."""
        if not name:
            return list(self)
        if version:
            return [self.find(name, version)]
        self.find(name, "")
        return [self._models[name][each] for each in self.versions(name)]

    def settle(self) -> None:
        """Wait until what other threads have found is queued: then a batcher that was removed can be closed."""
        with self.admission:
            return

    def versions(self, name: str) -> list[str]:
        """From the lowest to the highest: numbers by size, and above every word."""
        return sorted(self._models.get(name, ()), key=age)


def check(servable: Servable) -> None:
    """Raises ConfigError where its requests could not be put together."""
    scalars = [spec.name for spec in servable.inputs if not spec.shape]
    if servable.max_rows and scalars:
        raise ConfigError(
            f"model {servable.name} input {scalars[0]} has no dimension to batch over: "
            "give it one of -1, or set batching.max_rows = 0"
        )


def _listed(names: Iterable[str]) -> str:
    # A copy made at once, because the loop may change them meanwhile.
    return ", ".join(map(repr, tuple(names))) or "none"
