"""What is told over HTTP alone: the status of all models, windows as baselines, versions compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sidecar.console.budget import Budget
from sidecar.console.comparison import VersionsAnswer, Windows, versions
from sidecar.console.openapi import Further
from sidecar.console.shared import Shared
from sidecar.console.status import StatusAnswer, status
from sidecar.errors import BaselineError, NotReadyError, OverloadedError, SidecarError, UnknownModelError
from sidecar.export.activations import Watched
from sidecar.timeline import StoreStatus
from sidecar.types import Clock

FIRST_SECONDS = 30.0
"""How long one may wait for a window, of which there need be none from before."""

_STATUS: Mapping[type[SidecarError], int] = {
    UnknownModelError: 404,
    BaselineError: 409,
    OverloadedError: 429,
    NotReadyError: 503,
}


_SPENT = "Answers have taken console.budget; try again later."
_NOT_YET = "None was made in time, and there is none from before."

FURTHER = (
    Further(
        "status",
        "The state of all models at once, made once for all who ask; `age` of the reply says how old it is.",
        StatusAnswer,
        {},
        {"429": _SPENT, "503": _NOT_YET},
    ),
    Further(
        "versions",
        "Versions of a model that are served side by side, compared.",
        VersionsAnswer,
        {},
        {"429": _SPENT, "503": _NOT_YET},
    ),
    Further(
        "baseline",
        "The window of drift.window_seconds as a baseline file.",
        None,
        {"model": "Name of the model; the first one if left out.", "version": "Its version, likewise."},
        {
            "404": "No such model is observed.",
            "409": "Fewer than console.min_requests requests were observed in the window.",
            "429": _SPENT,
            "503": _NOT_YET,
        },
    ),
)
"""What is told here, for the OpenAPI document."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Each answer is made once for all who ask meanwhile and charged to `budget`, as those of `Api` are.

    watched: versions that are served. store: how the panes on disk fare; None where none are kept.
    keep_seconds: for how long an answer is given out again; the interval of the drain.
    """

    watched: Sequence[Watched]
    store: Callable[[], StoreStatus] | None
    window_seconds: float
    min_requests: int
    keep_seconds: float
    budget: Budget
    clock: Clock = time.monotonic

    def routes(self) -> list[Route]:
        of_status = self._shared(self._status)
        of_versions = self._shared(lambda: versions(self.watched, self.min_requests))
        windows = Windows(self.watched, self.min_requests, lambda make: self._shared(make, FIRST_SECONDS))

        async def tell(shared: Shared, _: Request) -> Response:
            try:
                body, age = await shared.answer()
            except (OverloadedError, NotReadyError) as error:
                return JSONResponse({"error": str(error)}, _STATUS[type(error)], {"retry-after": "1"})
            return Response(body, headers={"age": str(age)}, media_type="application/json")

        async def baseline(request: Request) -> Response:
            asked = request.query_params
            try:
                content = await windows.window(asked.get("model"), asked.get("version"))
            except (UnknownModelError, BaselineError, OverloadedError, NotReadyError) as error:
                code = _STATUS[type(error)]
                return PlainTextResponse(
                    f"{error}\n", code, {"retry-after": "1"} if code in (429, 503) else {}
                )
            return Response(content, media_type="application/octet-stream")

        return [
            Route("/api/v1/status", partial(tell, of_status)),
            Route("/api/v1/versions", partial(tell, of_versions)),
            Route("/api/v1/baseline", baseline),
        ]

    def _shared(self, make: Callable[[], bytes], patience: float = 2.0) -> Shared:
        return Shared(make, self.keep_seconds, self.budget, self.clock, patience)

    def _status(self) -> bytes:
        told = status(self.watched, self.store, self.window_seconds, self.min_requests)
        return told.model_dump_json().encode()
