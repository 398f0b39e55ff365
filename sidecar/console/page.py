"""The page: the package's own files, which any browser may have, as they tell nothing of any model."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from sidecar.console import sources
from sidecar.console.files import Files

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
# Chromium would compile nearly all of it twice otherwise, the second time while nothing else can run.
_COMPILE_AT_ONCE = b"//# allFunctionsCalledOnLoad\n"
_MISSING = "The page needs `pip install 'activation-sidecar[console]'`; /metrics and /api/v1 do not.\n"


def is_open(path: str) -> bool:
    """Whether anyone may ask for it: a browser has no token before the page has asked for one."""
    return path == "/" or path.startswith("/static/")


def routes() -> list[Route]:
    """`/` and what it loads."""
    drawing = sources.plotly()
    if drawing is None:

        async def missing(_: Request) -> Response:
            return PlainTextResponse(_MISSING)

        return [Route("/", missing)]

    code = sources.scripts().encode()
    files = Files(
        {
            "app.js": lambda: code,
            "plotly.min.js": lambda: _COMPILE_AT_ONCE + drawing.read_bytes(),
            "style.css": (sources.STATIC / "style.css").read_bytes,
            "icon.svg": (sources.STATIC / "icon.svg").read_bytes,
        }
    )
    text = (sources.FOLDER / "index.html").read_text(encoding="utf-8")
    html = text.replace('="static/', f'="static/{files.digest}/')

    async def page(_: Request) -> Response:
        return HTMLResponse(html, headers=_HEADERS)

    return [Route("/", page), Route("/static/{path:path}", files.answer)]
