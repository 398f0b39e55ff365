"""The files of the page, compressed once, under an address that changes with them, so that a browser may keep them."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from sidecar.export.negotiation import gzipped

_FOR_GOOD = "public, max-age=31536000, immutable"
_HEADERS = {"vary": "accept-encoding", "x-content-type-options": "nosniff"}


class Files:
    """Answers for `/static/{path:path}`: `<digest>/<name>`, which may be kept for good, or `<name>`, which may not.

    contents: name -> what gives its bytes, always the same.
    """

    def __init__(self, contents: Mapping[str, Callable[[], bytes]]) -> None:
        self._contents = contents
        self._compressed: dict[str, bytes] = {}
        digest = hashlib.sha256()
        for name in sorted(contents):
            digest.update(name.encode() + b"\0" + contents[name]())
        self.digest = digest.hexdigest()[:16]

    def answer(self, request: Request) -> Response:
        """To be called on a thread, because the largest file takes a quarter of a second to compress."""
        path: str = request.path_params["path"]
        name = path.removeprefix(f"{self.digest}/")
        if name not in self._contents:
            return PlainTextResponse("there is no such file\n", 404)
        headers = {**_HEADERS, "cache-control": "no-cache" if name == path else _FOR_GOOD}
        kind = mimetypes.guess_type(name)[0]
        if not gzipped(request.headers.get("accept-encoding", "")):
            return Response(self._contents[name](), headers=headers, media_type=kind)
        if name not in self._compressed:
            self._compressed[name] = gzip.compress(self._contents[name](), 6, mtime=0)
        headers["content-encoding"] = "gzip"
        return Response(self._compressed[name], headers=headers, media_type=kind)
