"""The page: files as they lie in the package, which any browser may have, as they tell nothing of any model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
PLOTLY = "plotly.min.js"

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        # plotly.js adds style elements, and style attributes to what it draws.
        "style-src 'self' 'unsafe-inline'",
        # A plot is saved as a picture by way of one in memory.
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_MISSING = "The page needs `pip install 'activation-sidecar[console]'`; /metrics and /api/v1 do not.\n"


def is_open(path: str) -> bool:
    """Whether anyone may ask for it: a browser has no token before the page has asked for one."""
    return path == "/" or path.startswith("/static/")


def plotly() -> Path | None:
    """plotly.js as the plotly package ships it; None where that is not installed."""
    found = find_spec("plotly")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "package_data" / PLOTLY
    return path if path.exists() else None


def routes() -> list[BaseRoute]:
    """`/` and what it loads."""
    drawing = plotly()

    async def page(_: Request) -> Response:
        if drawing is None:
            return PlainTextResponse(_MISSING)
        return FileResponse(FOLDER / "index.html", headers=_HEADERS)

    async def plots(_: Request) -> Response:
        if drawing is None:
            return PlainTextResponse(_MISSING, 404)
        return FileResponse(drawing, headers={"cache-control": "max-age=86400"})

    return [
        Route("/", page),
        Route(f"/static/{PLOTLY}", plots),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
