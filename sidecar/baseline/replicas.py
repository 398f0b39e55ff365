"""The window of a running sidecar, fetched over HTTP as a baseline."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request

from sidecar.drift import Reference
from sidecar.errors import BaselineError

_MOST_BYTES = 2**30
_SECONDS = 30.0


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirection would carry the token to whoever it names."""

    def redirect_request(self, *_: object) -> None:
        return None


_opener = urllib.request.build_opener(_Stay)


def fetch(
    url: str, model: str | None, version: str | None, token: str | None, seconds: float = _SECONDS
) -> Reference:
    """What `/api/v1/baseline` of the sidecar at `url` answers within so many seconds of silence.

    token: the bearer token that it asks for.

    Raises BaselineError when it cannot be reached, refuses, or answers something else.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise BaselineError(f"{url} must begin with http:// or https://")
    wanted = {name: value for name, value in (("model", model), ("version", version)) if value is not None}
    address = f"{url.rstrip('/')}/api/v1/baseline?{urllib.parse.urlencode(wanted)}"
    request = urllib.request.Request(address, headers={"authorization": f"Bearer {token}"} if token else {})
    try:
        with _opener.open(request, timeout=seconds) as reply:
            content: bytes = reply.read(_MOST_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            raise BaselineError(
                f"{url} refuses: {error.read(1000).decode(errors='replace').strip()}"
            ) from error
    except (OSError, urllib.error.URLError) as error:
        raise BaselineError(f"cannot reach {url}: {error}") from error
    return Reference.from_bytes(content, url)
