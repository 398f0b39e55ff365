"""Who may call: TLS on the port, a bearer token on every method but the health service."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc

from sidecar.errors import ConfigError, RequestError, UnauthenticatedError
from sidecar.server.status import code_of, text_of
from sidecar.settings import ServerSettings

OPEN_SERVICES = ("/grpc.health.v1.Health/",)
"""Probes of an orchestrator carry no secret, and learn nothing but whether requests are taken."""

Metadata = Iterable[tuple[str, str | bytes]]

Authorise = Callable[[str, Metadata], RequestError | None]
"""Method path and metadata of a call -> why it is refused, None where it may go on.

Synchronous and quick, because the server on the completion queue asks it on the thread that takes every call.
"""


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


class BearerToken:
    """Admits calls whose metadata say `authorization: Bearer <token>` (RFC 6750, 2.1)."""

    def __init__(self, token: bytes) -> None:
        self._token = token

    def authorise(self, method: str, metadata: Metadata) -> RequestError | None:
        """An `Authorise`."""
        if method.startswith(OPEN_SERVICES) or self._admits(dict(metadata).get("authorization", "")):
            return None
        return UnauthenticatedError("metadata must carry `authorization: Bearer <token>` with a valid token")

    def _admits(self, given: str | bytes) -> bool:
        scheme, _, token = (given if isinstance(given, str) else given.decode("latin-1")).partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._token)


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Has a server of grpc.aio ask `authorise` before anything of a call but its metadata is read."""

    def __init__(self, authorise: Authorise) -> None:
        self._authorise = authorise

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        call = handler_call_details
        refusal = self._authorise(call.method, call.invocation_metadata)
        if refusal is None:
            return await continuation(call)

        async def refuse(_messages: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            await context.abort(code_of(refusal), text_of(refusal))

        # A streaming handler answers at once; any other would first read the stranger's message.
        return grpc.stream_stream_rpc_method_handler(refuse)


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting} {path} cannot be read: {error.strerror}") from error
