"""Who may call: TLS on the port, a bearer token on every method but the health service."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

from sidecar.errors import ConfigError, UnauthenticatedError
from sidecar.server.status import ErrorsAsStatus
from sidecar.settings import ServerSettings

OPEN_SERVICES = ("/grpc.health.v1.Health/",)
"""Probes of an orchestrator carry no secret, and learn nothing but whether requests are taken."""


def credentials(settings: ServerSettings) -> grpc.ServerCredentials | None:
    """Certificate and key of `settings`, None without. Raises ConfigError where a file cannot be read."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    key = _read("server.tls_key", settings.tls_key)
    return grpc.ssl_server_credentials([(key, _read("server.tls_certificate", settings.tls_certificate))])


def bearer_token(settings: ServerSettings) -> bytes | None:
    """The secret in `token_file`, white space around it removed; None without such a setting.

    Raises ConfigError where the file cannot be read or is empty.
    """
    if settings.token_file is None:
        return None
    token = _read("server.token_file", settings.token_file).strip()
    if not token:
        raise ConfigError(f"server.token_file {settings.token_file} is empty, must hold the token")
    return token


class BearerToken(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Lets a call through whose metadata says `authorization: Bearer <token>` (RFC 6750, 2.1)."""

    def __init__(self, token: bytes) -> None:
        self._token = token

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        if handler_call_details.method.startswith(OPEN_SERVICES) or self._admits(handler_call_details):
            return await continuation(handler_call_details)
        # A streaming handler answers at once; any other would first read the stranger's message.
        return grpc.stream_stream_rpc_method_handler(_refuse)

    def _admits(self, call: grpc.HandlerCallDetails) -> bool:
        given = dict(call.invocation_metadata).get("authorization", "")
        scheme, _, token = (given if isinstance(given, str) else given.decode("latin-1")).partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._token)


async def _refuse(_messages: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    async with ErrorsAsStatus(context):
        raise UnauthenticatedError("metadata must carry `authorization: Bearer <token>` with a valid token")


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting} {path} cannot be read: {error.strerror}") from error
