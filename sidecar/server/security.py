"""Who may call what: bearer tokens, and methods that are an operator's."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from enum import IntEnum
from hashlib import sha256
from typing import Any

import grpc

from sidecar.errors import ConfigError, ForbiddenError, RequestError, UnauthenticatedError
from sidecar.server.files import FromFiles
from sidecar.server.status import Metadata, code_of, text_of
from sidecar.settings import ServerSettings

OPEN_SERVICES = ("/grpc.health.v1.Health/",)
"""Probes of an orchestrator carry no secret, and learn nothing but whether requests are taken."""

ADMIN_METHODS = frozenset(
    f"/inference.GRPCInferenceService/{name}"
    for name in (
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
    )
)
"""TraceSetting and LogSettings are not among them: they tell, and change nothing for anybody."""

SHOWS_INPUTS = "/sidecar.v1.ActivationTelemetry/GetInputs"
"""What other clients sent. Of admin calls it has only the token: it is taken at every port, without `admin` too."""

Authorise = Callable[[str, Metadata], RequestError | None]
"""Method path and metadata of a call -> why it is refused, None where it may go on.

Synchronous and quick, so that a server can ask it on whichever thread the call came.
"""


class Role(IntEnum):
    """What a token admits to: each to all of the one before."""

    NOBODY = 0
    CLIENT = 1
    ADMIN = 2


class Tokens:
    """The tokens of the settings, the file's as `refresh` finds them.

    Kept and compared as hashes: all of one length, so that comparing takes the same time whatever was sent.
    Raises ConfigError where a file cannot be read or has none.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.files = [
            FromFiles({name: path}, lambda content, name=name: _hashes(name, content))
            for name in ("token_file", "admin_token_file")
            if (path := getattr(settings, name))
        ]
        by_name = {one.name: one for one in self.files}
        self._clients, self._admins = by_name.get("token_file"), by_name.get("admin_token_file")
        self._fixed = (_hash(settings.token.get_secret_value().strip().encode()),) if settings.token else ()

    def __bool__(self) -> bool:
        """Whether there are any, so that anybody is asked for one."""
        return bool(self.files or self._fixed)

    def role(self, authorization: str | bytes | None) -> Role:
        """What `Bearer <token>` (RFC 6750, 2.1) admits to; None where the call had no such thing."""
        clients = self._clients.value if self._clients else self._fixed
        admins = self._admins.value if self._admins else ()
        given = authorization.encode() if isinstance(authorization, str) else authorization or b""
        scheme, _, token = given.partition(b" ")
        hashed = _hash(token.strip()) if scheme.lower() == b"bearer" else b""
        if _among(hashed, admins):
            return Role.ADMIN
        if clients and not _among(hashed, clients):
            return Role.NOBODY
        return Role.CLIENT if admins else Role.ADMIN


class Access:
    """What the callers of one port may do.

    takes_admin: admin calls are taken here. elsewhere: they are taken, at a port of their own.
    """

    def __init__(self, tokens: Tokens, *, takes_admin: bool, elsewhere: bool) -> None:
        self._tokens = tokens
        self._takes_admin, self._elsewhere = takes_admin, elsewhere

    def authorise(self, method: str, metadata: Metadata) -> RequestError | None:
        """An `Authorise`."""
        if method.startswith(OPEN_SERVICES):
            return None
        role = self._role(metadata)
        if role is Role.NOBODY:
            return UnauthenticatedError(
                "metadata must carry `authorization: Bearer <token>` with a valid token"
            )
        if method == SHOWS_INPUTS and role is not Role.ADMIN:
            return ForbiddenError("kept inputs are shown for a token of server.admin_token_file only")
        return self._admin_refusal(role) if method in ADMIN_METHODS else None

    def _role(self, metadata: Metadata) -> Role:
        if not self._tokens:
            return Role.ADMIN
        given = [value for name, value in metadata if name == "authorization"]
        return self._tokens.role(given[0] if len(given) == 1 else None)

    def _admin_refusal(self, role: Role) -> ForbiddenError | None:
        if self._elsewhere:
            return ForbiddenError("admin calls are taken at an address of their own: server.admin_listen")
        if not self._takes_admin:
            return ForbiddenError("admin calls are not allowed: server.admin is false")
        if role is not Role.ADMIN:
            return ForbiddenError("admin calls need a token of server.admin_token_file")
        return None


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


def _among(hashed: bytes, tokens: tuple[bytes, ...]) -> bool:
    """Looks at all of them, so that nobody learns from the time which one is nearly right."""
    return sum(hmac.compare_digest(hashed, token) for token in tokens) > 0


def _hash(token: bytes) -> bytes:
    return sha256(token).digest()


def _hashes(setting: str, content: bytes) -> tuple[bytes, ...]:
    tokens = [line.strip() for line in content.splitlines() if line.strip()]
    if not tokens:
        raise ConfigError(f"server.{setting} is empty, must hold the token")
    return tuple(map(_hash, tokens))
