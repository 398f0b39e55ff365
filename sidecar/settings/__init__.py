"""All settings: one TOML file plus `SIDECAR_SECTION__KEY` from the environment, checked once, frozen.

`models` is a list, so its keys carry the position: `SIDECAR_MODELS__0__WEIGHTS`.
"""

from __future__ import annotations

from sidecar.settings.model import (
    BatchingSettings,
    ModelSettings,
    RepositorySettings,
    TensorSettings,
    VersionPolicySettings,
    check_lineup,
)
from sidecar.settings.section import Section
from sidecar.settings.server import ServerSettings, is_local
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
from sidecar.settings.tree import ENV_PREFIX, SECRETS, Settings, checked, load, read, resolve

__all__ = [
    "ENV_PREFIX",
    "SECRETS",
    "BatchingSettings",
    "CaptureSettings",
    "ConsoleSettings",
    "DriftSettings",
    "ExportSettings",
    "LogSettings",
    "ModelSettings",
    "OtelSettings",
    "RepositorySettings",
    "Section",
    "ServerSettings",
    "Settings",
    "StoreSettings",
    "TensorSettings",
    "TimelineSettings",
    "VersionPolicySettings",
    "check_lineup",
    "checked",
    "is_local",
    "load",
    "read",
    "resolve",
]
