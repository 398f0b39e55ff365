"""What is needed to compare: the window as a baseline, and versions beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sidecar.errors import BaselineError
from sidecar.export.activations import Watched, observed
from sidecar.export.versions import version_differences


def routes(watched: Sequence[Watched]) -> list[Route]:
    """/api/v1/baseline, for `sidecar compare` and whoever wants to keep it, and /api/v1/versions."""

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

    return [Route("/api/v1/baseline", baseline), Route("/api/v1/versions", versions)]


def plain(value: Any) -> Any:
    """The same with null for every number that JSON does not have."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
