"""OpenTelemetry: spans of requests and the metrics of the catalogue, pushed over OTLP. Needs the extra `otel`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from sidecar.errors import ConfigError
from sidecar.settings import OtelSettings

if TYPE_CHECKING:
    from sidecar.otel.push import Push


def create(settings: OtelSettings, registry: CollectorRegistry) -> Push | None:
    """None where there is nobody to push to. Raises ConfigError where the extra is not installed."""
    if not settings.endpoint:
        return None
    try:
        from sidecar.otel.push import Push
    except ModuleNotFoundError as error:
        raise ConfigError(
            "otel.endpoint needs the extra `otel`: pip install 'activation-sidecar[otel]'"
        ) from error
    return Push(settings, registry)
