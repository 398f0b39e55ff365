"""All settings as one tree, read from a TOML file with `SIDECAR_SECTION__KEY` from the environment laid over it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError, field_validator, model_validator

from sidecar.errors import ConfigError
from sidecar.settings.model import ModelSettings, RepositorySettings, of_one_mind
from sidecar.settings.section import Section
from sidecar.settings.server import ServerSettings
from sidecar.settings.telemetry import (
    CaptureSettings,
    ConsoleSettings,
    DriftSettings,
    ExportSettings,
    LogSettings,
    OtelSettings,
    StoreSettings,
    TimelineSettings,
)

ENV_PREFIX = "SIDECAR_"
SECRETS = ("SIDECAR_SERVER__TOKEN",)
"""Variables whose text is taken as it stands, and told to nobody."""

S = TypeVar("S", bound=Section)


class Settings(Section):
    server: ServerSettings = ServerSettings()
    models: tuple[ModelSettings, ...] = ()
    repository: RepositorySettings = RepositorySettings()
    capture: CaptureSettings = CaptureSettings()
    timeline: TimelineSettings = TimelineSettings()
    store: StoreSettings = StoreSettings()
    drift: DriftSettings = DriftSettings()
    export: ExportSettings = ExportSettings()
    otel: OtelSettings = OtelSettings()
    console: ConsoleSettings = ConsoleSettings()
    log: LogSettings = LogSettings()

    @field_validator("models")
    @classmethod
    def _distinct(cls, models: tuple[ModelSettings, ...]) -> tuple[ModelSettings, ...]:
        seen = [(model.name, model.version) for model in models]
        if twice := sorted({key for key in seen if seen.count(key) > 1}):
            raise ValueError(f"model {twice[0][0]} version {twice[0][1]} is configured twice")
        return tuple(
            model for name in dict.fromkeys(name for name, _ in seen) for model in of_one_mind(name, models)
        )

    @model_validator(mode="after")
    def _something(self) -> Settings:
        if not self.models and self.repository.path is None:
            raise ValueError("there is no model: give [[models]], or repository.path, a folder of them")
        return self


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Read `path`, lay the environment over it, check everything.

    Relative paths in the file are relative to the file's folder.
    Raises ConfigError naming the key, its value and what is allowed.
    """
    return resolve(read(path), environ, base=path.parent)


def read(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def resolve(tree: Mapping[str, Any], environ: Mapping[str, str], *, base: Path) -> Settings:
    """Check a tree of settings with the environment laid over it. Raises ConfigError."""
    merged = _thaw(tree)
    for name, text in sorted(environ.items()):
        if name.startswith(ENV_PREFIX):
            _place(merged, name, text)
    return _anchor(checked(Settings, merged), base)


def checked(section: type[S], tree: Mapping[str, Any]) -> S:
    """`tree` as a `section`. Raises ConfigError with a sentence for each thing that is wrong."""
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(section, detail) for detail in error.errors())) from error


def _thaw(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _thaw(value) for key, value in node.items()}
    return [_thaw(value) for value in node] if isinstance(node, list | tuple) else node


def _place(tree: dict[str, Any], name: str, text: str) -> None:
    *parents, key = name.removeprefix(ENV_PREFIX).lower().split("__")
    node: Any = tree
    try:
        for parent in parents:
            node = node[int(parent)] if isinstance(node, list) else node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise TypeError
    except (ValueError, IndexError, TypeError):
        raise ConfigError(f"{name} names no setting; the form is SIDECAR_SECTION__KEY") from None
    node[key] = text if name in SECRETS else _value(text)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


_RANGES = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def _sentence(section: type[Section], detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "settings"
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{key} is not a setting; there are {', '.join(_siblings(section, detail['loc']))}"
    if kind == "missing":
        return f"{key} is missing and must be given"
    if kind in _RANGES:
        bound, words = _RANGES[kind]
        return f"{key} is {detail['input']!r}, must be {words} {context[bound]}"
    reason = str(detail["msg"]).removeprefix("Value error, ")
    secret = f"{ENV_PREFIX}{'__'.join(map(str, detail['loc']))}".upper() in SECRETS
    if isinstance(detail["input"], str | int | float | bool) and not secret:
        return f"{key} is {detail['input']!r}: {reason}"
    return f"{key}: {reason}"


def _siblings(root: type[Section], place: Sequence[str | int]) -> list[str]:
    """Names of the settings that may stand at `place`."""
    section: Any = root
    for part in place[:-1]:
        if isinstance(part, str):
            annotation = section.model_fields[part].annotation
            section = next(iter(get_args(annotation)), annotation)
    return list(section.model_fields)


def _anchor(settings: Settings, base: Path) -> Settings:
    """Relative paths made relative to the folder of the file they stand in."""

    def anchored(section: S) -> S:
        changes = {
            name: base / value
            for name in type(section).model_fields
            if isinstance(value := getattr(section, name), Path)
        }
        return section.model_copy(update=changes)

    def anchored_model(model: ModelSettings) -> ModelSettings:
        outputs = tuple(anchored(output) for output in model.outputs)
        return anchored(model.model_copy(update={"outputs": outputs}))

    return settings.model_copy(
        update={
            "server": anchored(settings.server),
            "models": tuple(anchored_model(model) for model in settings.models),
            "store": settings.store.anchored(base),
            "repository": anchored(settings.repository),
            "drift": anchored(settings.drift),
            "console": anchored(settings.console).model_copy(
                update={"baselines": {name: base / path for name, path in settings.console.baselines.items()}}
            ),
        }
    )
