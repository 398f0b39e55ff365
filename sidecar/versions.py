"""Which versions are loaded, and how they come and go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sidecar.configured import Configured, Offer
from sidecar.errors import ConfigError, LoadError, SidecarError
from sidecar.export.activations import Watched
from sidecar.model import Model
from sidecar.runtime.memory import return_freed_memory
from sidecar.settings import BatchingSettings, Settings
from sidecar.types import Clock, Lineup, Servable, age

_log = logging.getLogger("sidecar.models")

Key = tuple[str, str]

FAILED = "failed its self-check and takes no traffic; the log says why"


class Versions:
    """A `types.Repository` of what is configured.

    models: those that are served, by name and from the lowest version. watched: the same as exporters see them.
    batching: settings of all that were ever loaded. Both are one container for good, because others keep them.
    known: name and version of all that could be loaded at the start.
    Raises ConfigError, ModelError or BaselineError where one that is loaded from the start cannot be.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._configured = Configured(settings)
        self._offers: dict[str, Offer] = {}
        self._running: list[Model] = []
        self.models: list[Model] = []
        self.watched: list[Watched] = []
        self.batching: dict[Key, BatchingSettings] = {}
        self._refused: dict[Key, str] = {}
        found = self._configured.versions()
        self.known = [(name, version) for name, versions in found.items() for version in versions]
        for name in found:
            self._running += self._from_the_start(name)
        self._show(self._running)
        self._remember: Callable[[Watched], None] = lambda _: None

    def remember(self, remember: Callable[[Watched], None]) -> None:
        """Have it called with each version that is loaded, and with each that is loaded from now on."""
        self._remember = remember
        for watched in self.watched:
            remember(watched)

    def _from_the_start(self, name: str) -> list[Model]:
        """Those of a model that its policy chooses, and `load = false` does not leave for later.

        One that fails its self-check is not served where another version passed and can answer in its place.
        """
        offer = self._configured.model(name)
        loaded = [self._loaded(offer, version) for version in offer.from_the_start()]
        failed = [model for model in loaded if self._failed(model)]
        if len(failed) == len(loaded):
            return loaded
        for model in failed:
            model.executor.close()
            self._refused[model.settings.key] = FAILED
        return [model for model in loaded if model not in failed]

    def _loaded(self, offer: Offer, version: str) -> Model:
        settings = offer.version(version)
        model = Model(settings, self._settings, self._clock)
        self.batching[settings.key] = settings.batching
        return model

    def _failed(self, model: Model) -> bool:
        return self._settings.capture.enabled and model.observation is None

    @property
    def refused(self) -> dict[Key, str]:
        return self._refused

    async def versions(self) -> dict[str, list[str]]:
        try:
            return await asyncio.to_thread(self._configured.versions)
        except ConfigError as error:
            _log.error("%s", error)
            raise LoadError("the model repository is not in order; the log says why") from error

    async def read(self, model: str) -> Lineup:
        try:
            self._offers[model] = await asyncio.to_thread(self._configured.model, model)
        except ConfigError as error:
            _log.error("%s", error)
            raise LoadError(f"model {model!r} cannot be loaded; the log says why") from error
        return self._offers[model].lineup

    async def load(self, model: str, version: str) -> Servable:
        """See `types.Repository`. A version that fails its self-check is refused: what it was to replace goes on."""
        loaded = await asyncio.to_thread(self._load, model, version)
        if self._failed(loaded):
            await loaded.stop()
            raise LoadError(f"model {model!r} version {version!r} {FAILED}")
        self._running.append(loaded)
        self._remember(loaded.watched())
        return loaded.servable

    def _load(self, model: str, version: str) -> Model:
        named = f"model {model!r} version {version!r}"
        try:
            return self._loaded(self._offers[model], version)
        except SidecarError as error:
            # As text: whoever keeps the record shall not keep the error, on whose frames hangs what was loaded.
            _log.error("%s cannot be loaded: %s", named, str(error))
        return_freed_memory()
        raise LoadError(f"{named} cannot be loaded; the log says why")

    def serve(self, servable: Servable) -> None:
        model = self._of(servable)
        others = [one for one in self.models if one.settings.key != model.settings.key]
        self._show([*others, model])
        model.start()

    async def release(self, servable: Servable) -> None:
        model = self._of(servable)
        self._running.remove(model)
        self._show([one for one in self.models if one is not model])
        await model.stop()
        del model
        await asyncio.to_thread(return_freed_memory)

    def _of(self, servable: Servable) -> Model:
        (model,) = [one for one in self._running if one.servable is servable]
        return model

    def _show(self, models: list[Model]) -> None:
        self.models = sorted(models, key=lambda one: (one.settings.name, age(one.settings.version)))
        self.watched[:] = [model.watched() for model in self.models]
