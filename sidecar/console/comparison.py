"""What is needed to compare: the window as a baseline, and versions beside each other."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sidecar.console.lane import Lane
from sidecar.errors import BaselineError, OverloadedError
from sidecar.export.activations import Watched, observed
from sidecar.export.versions import version_differences

WAITING = 8
"""Requests for a window or for differences that are being answered or wait; more are refused."""


def routes(watched: Sequence[Watched]) -> list[Route]:
    """/api/v1/baseline, for `sidecar compare` and whoever wants to keep it, and /api/v1/versions.

    Both are made anew for each who asks, one after the other. 429 where too many wait.
    """
    lane = Lane("sidecar-comparison", WAITING)

    def in_turn(make: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return await lane.run(partial(make, request))
            except OverloadedError as error:
                return PlainTextResponse(f"{error}\n", 429, {"retry-after": "1"})

        return answer

    def baseline(request: Request) -> Response:
        """?model=&version=, by default the first that is observed. 404 if there is no such, 409 before any request."""
        wanted = [request.query_params.get(name) for name in ("model", "version")]
        for one in observed(watched):
            if all(want in (None, have) for want, have in zip(wanted, (one.model, one.version), strict=True)):
                try:
                    content = one.monitor.snapshot().to_bytes()
                except BaselineError as error:
                    return PlainTextResponse(f"{error}\n", 409)
                return Response(content, media_type="application/octet-stream")
        known = ", ".join(f"{one.model} version {one.version}" for one in observed(watched))
        return PlainTextResponse(f"no such model is observed; there are: {known or 'none'}\n", 404)

    def versions(_: Request) -> Response:
        return JSONResponse(
            {"versions": [plain(asdict(one)) for one in version_differences(observed(watched))]}
        )

    return [Route("/api/v1/baseline", in_turn(baseline)), Route("/api/v1/versions", in_turn(versions))]


def plain(value: Any) -> Any:
    """The same with null for every number that JSON does not have."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
