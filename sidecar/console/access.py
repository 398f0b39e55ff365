"""Who may have what of the HTTP port."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sidecar.console import page
from sidecar.settings import ServerSettings, is_local

OPEN_PATHS = ("/livez", "/readyz")
"""Probes of an orchestrator carry no secret."""

INPUTS_PATH = "/api/v1/inputs"
"""It shows what clients sent."""

Judge = Callable[[bytes | None], bool]
"""A header as it came, None where there is none or more than one -> whether it is good enough."""


@dataclass(frozen=True, slots=True)
class Access:
    """admits: by the header `authorization`. sees_inputs: the same for inputs that were kept.

    names_us: by the header `host`, whether it is this port that was meant.
    """

    admits: Judge
    sees_inputs: Judge
    names_us: Judge


def names_us(settings: ServerSettings) -> Judge:
    """Whether a header `host` names the port, where nothing but its being on loopback keeps strangers away.

    A page of theirs could otherwise read it through a browser here, by a name of theirs that resolves to 127.0.0.1.
    """
    guarded = settings.token or settings.token_file or settings.admin_token_file or settings.tls_certificate
    if guarded or not is_local(settings.http_host):
        return lambda _: True
    known = {name.lower() for name in settings.http_names}

    def judge(host: bytes | None) -> bool:
        name = _without_port((host or b"").decode("latin-1").lower())
        return is_local(name) or name in known

    return judge


def _without_port(host: str) -> str:
    """RFC 3986, 3.2.2: an IPv6 address stands in brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")


class Guard:
    """Lets a request through that `access` lets through, or that asks for a probe or for the page.

    A connection without the certificate that others need has `certified` False in its scope's state.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._refusal(scope) or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            return None
        if not self._access.names_us(_header(scope, b"host")):
            text = "this port is asked for by a name of this machine, or by one of server.http_names\n"
            return PlainTextResponse(text, 421)
        if not scope.get("state", {}).get("certified", True):
            return PlainTextResponse("a client certificate is needed\n", 403)
        return None if page.is_open(scope["path"]) else self._refusal_of_answers(scope)

    def _refusal_of_answers(self, scope: Scope) -> Response | None:
        authorization = _header(scope, b"authorization")
        if self._access.admits(authorization):
            if scope["path"] != INPUTS_PATH or self._access.sees_inputs(authorization):
                return None
            text = "kept inputs are shown for a token of server.admin_token_file only"
            return JSONResponse({"error": text}, 403)
        text = "a header `authorization: Bearer <token>` with a valid token is needed\n"
        return PlainTextResponse(text, 401, {"www-authenticate": "Bearer"})


def _header(scope: Scope, wanted: bytes) -> bytes | None:
    given = [value for name, value in scope["headers"] if name == wanted]
    return given[0] if len(given) == 1 else None
