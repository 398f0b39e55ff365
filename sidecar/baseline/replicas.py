"""The window of a running sidecar, fetched over HTTP as a baseline."""

from __future__ import annotations

import http.client
import io
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from typing import Any

from sidecar.drift import Reference
from sidecar.errors import BaselineError, UnreachableError

_MOST_BYTES = 2**30
_SECONDS = 30.0
_OF_THE_QUESTION = (404, 409)
"""No such model, or nothing seen of it yet: another may be had."""


class _Reply(io.RawIOBase):
    """What comes from a socket until a moment, for http.client, whose own limit is for each read alone."""

    def __init__(self, connected: socket.socket, end: float) -> None:
        self._socket, self._bytes, self._end = connected, connected.makefile("rb", buffering=0), end

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._end - time.monotonic()
        if left > 0:
            self._socket.settimeout(left)
            with suppress(TimeoutError):
                return self._bytes.readinto(buffer)
        raise TimeoutError("the reply was not whole in time")

    def close(self) -> None:
        self._bytes.close()
        super().close()


class _Limited(urllib.request.AbstractHTTPHandler):
    """Takes the timeout of a request for the whole of it. Connecting to each address may take as long again."""

    def do_open(self, http_class: Any, req: urllib.request.Request, **given: Any) -> http.client.HTTPResponse:
        def connection(host: str, timeout: float, **more: Any) -> http.client.HTTPConnection:
            made: http.client.HTTPConnection = http_class(host, timeout=timeout, **more)
            end = time.monotonic() + timeout

            def reply(connected: socket.socket, *named: Any, **options: Any) -> http.client.HTTPResponse:
                return http.client.HTTPResponse(_Reply(connected, end), *named, **options)  # type: ignore[arg-type]

            made.response_class = reply  # type: ignore[assignment]
            return made

        return super().do_open(connection, req, **given)  # type: ignore[arg-type]


class _Http(_Limited, urllib.request.HTTPHandler):
    pass


class _Https(_Limited, urllib.request.HTTPSHandler):
    pass


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirection would carry the token to whoever it names."""

    def redirect_request(self, *_: object) -> None:
        return None


_opener = urllib.request.build_opener(_Stay, _Http, _Https)


def fetch(
    url: str, model: str | None, version: str | None, token: str | None, seconds: float = _SECONDS
) -> Reference:
    """What `/api/v1/baseline` of the sidecar at `url` answers within so many seconds.

    token: the bearer token that it asks for.

    Raises BaselineError when it has no such window or answers something else, and UnreachableError, which is one,
    when it cannot be reached or refuses whatever is asked for.
    """
    if not url.startswith(("http://", "https://")):
        raise BaselineError(f"{url} must begin with http:// or https://")
    # The library would quote the token.
    if token and not (token.isascii() and token.isprintable()):
        raise UnreachableError(f"the token for {url} must be one line of printable ASCII")
    wanted = {name: value for name, value in (("model", model), ("version", version)) if value is not None}
    address = f"{url.rstrip('/')}/api/v1/baseline?{urllib.parse.urlencode(wanted)}"
    try:
        request = urllib.request.Request(
            address, headers={"authorization": f"Bearer {token}"} if token else {}
        )
        content = _content(request, url, seconds)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnreachableError(f"cannot reach {url}: {error or type(error).__name__}") from error
    return Reference.from_bytes(content, url)


def _content(request: urllib.request.Request, url: str, seconds: float) -> bytes:
    """Raises BaselineError for a refusal, and whatever urllib and http.client raise for anything else."""
    try:
        with _opener.open(request, timeout=seconds) as reply:
            content: bytes = reply.read(_MOST_BYTES)
            return content
    except urllib.error.HTTPError as error:
        with error:
            # On one line: it goes into the log, where a second line could pass for one of ours.
            said = " ".join(error.read(1000).decode(errors="replace").split())
        kind = BaselineError if error.code in _OF_THE_QUESTION else UnreachableError
        raise kind(f"{url} refuses: {said}") from error
