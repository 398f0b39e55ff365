"""A model repository in the layout of Triton's: a folder for each model, in it one for each version.

    digits/model.toml             the keys of [[models]] that hold for all versions
    digits/1/model.onnx           one file in each version: ONNX,
    digits/2/model.pt2            a torch.export package,
    digits/3/model.safetensors    or weights for the factory that `source` in model.toml names

Other files, hidden folders, and folders in a model that are no number or begin with 0 mean nothing. What is read
lies in the folder: a symbolic link is refused wherever it leads, and so is a path with `..`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sidecar.errors import ConfigError
from sidecar.settings import ModelSettings, VersionPolicySettings, check_lineup, checked, read
from sidecar.types import Lineup, age

SETTINGS_FILE = "model.toml"

MODEL_FILES = {
    "model.onnx": ("onnx", "path"),
    "model.pt2": ("torch", "path"),
    "model.safetensors": ("torch", "weights"),
}
"""File of a version -> the runtime and the key of [[models]] that it stands for."""

SAID_BY_THE_FOLDER = ("name", "version", "runtime", "path", "weights")

_VERSION = re.compile(r"[1-9]\d{0,17}", re.ASCII)


def names(repository: Path) -> list[str]:
    """Of the models in `repository`. Raises ConfigError where it cannot be read or has a link in it."""
    return sorted(entry.name for entry in _folders(repository))


def versions(repository: Path, model: str) -> list[str]:
    """Of a model that `names` gave, from the lowest. Raises ConfigError, as that does."""
    found = (entry.name for entry in _folders(repository / model))
    return sorted((name for name in found if _VERSION.fullmatch(name)), key=age)


class ModelFolder:
    """One model of a repository, as its `model.toml` and its version folders are now.

    trust: it may set `source` and `trust`, which run code.
    Raises ConfigError that names file and key.
    """

    def __init__(self, repository: Path, name: str, *, trust: bool) -> None:
        self._folder = repository / name
        self._file = self._folder / SETTINGS_FILE
        found = versions(repository, name)
        if not found:
            raise ConfigError(f"{self._folder} has no version, must have folders named 1, 2, ...")
        self._settings = self._read(name, found, trust=trust)
        policy = self._settings.version_policy or VersionPolicySettings(latest=1)
        self.lineup = Lineup(tuple(found), frozenset(self._settings.canary), policy.policy)
        self.waiting = frozenset(() if self._settings.load else found)

    def version(self, version: str) -> ModelSettings:
        """Its settings. Raises ConfigError where there is not one file of a kind that can be served."""
        folder = self._folder / version
        found = [name for name in MODEL_FILES if _is_file(folder / name)]
        if len(found) != 1:
            raise ConfigError(
                f"{folder} holds {' and '.join(found) or 'no model'}, must hold one of {', '.join(MODEL_FILES)}"
            )
        runtime, key = MODEL_FILES[found[0]]
        changes: dict[str, Any] = {"version": version, "runtime": runtime, key: folder / found[0]}
        if key == "path" and self._settings.decoupled:
            raise ConfigError(f"{folder / found[0]} gives one reply to a request, and decoupled is true")
        if key == "path":
            changes |= {"source": None, "trust": self._settings.trust and runtime == "torch"}
        else:
            changes["path"] = None
            if self._settings.source is None:
                raise ConfigError(
                    f"{self._file}: source is missing, the factory whose weights are in {folder}"
                )
        return self._settings.model_copy(update=changes)

    def _read(self, name: str, found: list[str], *, trust: bool) -> ModelSettings:
        if not _is_file(self._file):
            raise ConfigError(f"{self._file} is missing; it holds the model's keys of [[models]]")
        tree = read(self._file)
        if said := [key for key in SAID_BY_THE_FOLDER if key in tree]:
            raise ConfigError(f"{self._file}: {said[0]} does not stand here, the folders and files say it")
        if not trust and (code := [key for key in ("source", "trust") if tree.get(key)]):
            raise ConfigError(f"{self._file}: {code[0]} runs code, which needs repository.trust = true")
        # Which file a version has is told when it is asked for: another may still be being copied.
        stand_in = {} if "source" in tree else {"path": self._folder}
        whole = {**tree, "name": name, "version": found[-1], **stand_in}
        try:
            settings = checked(ModelSettings, whole)
            check_lineup(name, found, {key: getattr(settings, key) for key in ("canary", "version_policy")})
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"{self._file}: {error}") from error
        if settings.baseline is None:
            return settings
        return settings.model_copy(update={"baseline": self._inside("baseline", settings.baseline)})

    def _inside(self, key: str, path: Path) -> Path:
        if path.is_absolute() or ".." in path.parts:
            raise ConfigError(f"{self._file}: {key} is {str(path)!r}, must lie in the model's folder")
        where = self._folder
        for part in path.parts:
            where /= part
            _refuse_link(where)
        return where


def _folders(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    _refuse_link(Path(entry.path))
                if entry.is_dir(follow_symlinks=False):
                    yield entry
    except OSError as error:
        raise ConfigError(f"{folder} cannot be read: {error.strerror}") from error


def _is_file(path: Path) -> bool:
    _refuse_link(path)
    return path.is_file()


def _refuse_link(path: Path) -> None:
    try:
        linked = stat.S_ISLNK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if linked:
        raise ConfigError(f"{path} is a symbolic link, which a model repository must not have")
