"""The HTTP port: the page, /metrics, /livez, /readyz and the API, and who may have what of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sidecar.console import page
from sidecar.console.access import Access, Guard
from sidecar.export import negotiation
from sidecar.export.activations import Watched
from sidecar.export.exposition import Exposition


@dataclass(frozen=True, slots=True)
class Standing:
    """How the process stands, as /readyz tells it.

    stale: settings of files whose new content cannot be used. leaving: the server will stop soon.
    """

    watched: Sequence[Watched]
    stale: Callable[[], Collection[str]] = tuple
    leaving: Callable[[], bool] = lambda: False


def application(
    exposition: Exposition, standing: Standing, access: Access, api: Sequence[Route] = ()
) -> Starlette:
    """The paths of the port; all but /livez, /readyz and what is in the page ask who is there. api: its paths."""

    async def metrics(request: Request) -> Response:
        format = negotiation.chosen(request.headers.get("accept", ""))
        page = await exposition.page(format)
        headers = {"content-type": negotiation.CONTENT_TYPES[format], "vary": "accept, accept-encoding"}
        if negotiation.gzipped(request.headers.get("accept-encoding", "")):
            return Response(page.compressed, headers={**headers, "content-encoding": "gzip"})
        return Response(page.plain, headers=headers)

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    def readyz(_: Request) -> Response:
        """503 until every model takes requests, and from the moment the server is to stop.

        What else is wrong, telemetry that is off or a new certificate of no use, is told and makes nobody unready.
        """
        models = [
            {
                "model": source.model,
                "version": source.version,
                "ready": source.ready(),
                "instrumented": telemetry.instrumented,
                "detail": telemetry.detail,
            }
            for source, telemetry in ((source, source.status()) for source in tuple(standing.watched))
        ]
        ready = not standing.leaving() and all(model["ready"] for model in models)
        answer = {
            "ready": ready,
            "stopping": standing.leaving(),
            "stale_files": list(standing.stale()),
            "models": models,
        }
        return JSONResponse(answer, status_code=200 if ready else 503)

    return Starlette(
        routes=[
            *page.routes(),
            Route("/metrics", metrics),
            Route("/livez", livez),
            Route("/readyz", readyz),
            *api,
        ],
        middleware=[Middleware(Guard, access=access)],
    )
