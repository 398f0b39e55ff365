"""All versions that could be loaded: those of [[models]], and those of the repository folder as it is now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sidecar import folder
from sidecar.errors import ConfigError
from sidecar.folder import ModelFolder
from sidecar.settings import ModelSettings, Settings, VersionPolicySettings
from sidecar.types import Lineup


@dataclass(frozen=True, slots=True)
class Offer:
    """One model.

    version: its settings, by the name of the version; raises ConfigError. waiting: versions that are not loaded from
    the start.
    """

    lineup: Lineup
    version: Callable[[str], ModelSettings]
    waiting: frozenset[str]

    def from_the_start(self) -> list[str]:
        ready = [version for version in self.lineup.versions if version not in self.waiting]
        return self.lineup.policy.choose(ready, self.lineup.canaries)


class Configured:
    """Reads the repository folder each time it is asked, and [[models]] once."""

    def __init__(self, settings: Settings) -> None:
        self._listed: dict[str, dict[str, ModelSettings]] = {}
        for model in settings.models:
            self._listed.setdefault(model.name, {})[model.version] = model
        self._repository = settings.repository

    def versions(self) -> dict[str, list[str]]:
        """Of each model. Raises ConfigError for a folder that cannot be read."""
        found = {name: list(versions) for name, versions in self._listed.items()}
        path = self._repository.path
        if path is None:
            return found
        for name in folder.names(path):
            if name in self._listed:
                raise ConfigError(
                    f"{path} has model {name}, and so has [[models]]: each comes from one place"
                )
            found[name] = folder.versions(path, name)
        return found

    def model(self, name: str) -> Offer:
        """A model that `versions` has. Raises ConfigError where its folder is not in order."""
        if name in self._listed:
            listed = self._listed[name]
            first = next(iter(listed.values()))
            policy = first.version_policy or VersionPolicySettings(all=True)
            waiting = frozenset(version for version, settings in listed.items() if not settings.load)
            lineup = Lineup(tuple(listed), frozenset(first.canary), policy.policy)
            return Offer(lineup, listed.__getitem__, waiting)
        assert self._repository.path is not None
        found = ModelFolder(self._repository.path, name, trust=self._repository.trust)
        return Offer(found.lineup, found.version, found.waiting)

    def everything(self) -> list[ModelSettings]:
        """Every version of every model. Raises ConfigError."""
        offers = [self.model(name) for name in self.versions()]
        return [offer.version(version) for offer in offers for version in offer.lineup.versions]
