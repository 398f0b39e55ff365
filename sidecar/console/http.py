"""The HTTP port: the page, /metrics, /livez, /readyz, and the state as JSON."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sidecar.console import comparison, page
from sidecar.console.comparison import plain
from sidecar.console.shared import Shared
from sidecar.errors import NotReadyError
from sidecar.export import negotiation
from sidecar.export.activations import Watched
from sidecar.export.exposition import Exposition
from sidecar.export.pace import Pace
from sidecar.timeline import StoreStatus

OPEN_PATHS = ("/livez", "/readyz")
"""Probes of an orchestrator carry no secret."""

INPUTS_PATH = "/api/v1/inputs"
"""It shows what clients sent."""


Admits = Callable[[bytes | None], bool]
"""Whether a header `authorization`, or none, is good enough."""


@dataclass(frozen=True, slots=True)
class Access:
    """admits: to the port. sees_inputs: to inputs that were kept."""

    admits: Admits
    sees_inputs: Admits


@dataclass(frozen=True, slots=True)
class Standing:
    """How the process stands, as /readyz and /api/v1/status tell it.

    window_seconds: what effect sizes are computed over. stale: settings of files whose new content cannot be used.
    leaving: the server will stop soon. store: how the panes on disk fare; None where none are kept.
    keep_seconds: for how long a status is given out again; the interval of the drain.
    """

    watched: Sequence[Watched]
    window_seconds: float
    stale: Callable[[], Collection[str]] = tuple
    leaving: Callable[[], bool] = lambda: False
    store: Callable[[], StoreStatus] | None = None
    keep_seconds: float = 0.0


def application(
    exposition: Exposition, standing: Standing, access: Access, more: Sequence[Route] = ()
) -> Starlette:
    """The paths of the port; all but /livez, /readyz and what is in the page ask who is there.

    more: paths of the API.
    """

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

    def everything() -> bytes:
        models = [model_status(source, standing.window_seconds) for source in tuple(standing.watched)]
        kept = asdict(standing.store()) if standing.store else None
        return json.dumps({"models": models, "store": kept}).encode()

    shared = Shared(everything, standing.keep_seconds, time.monotonic)

    async def status(_: Request) -> Response:
        try:
            body, age = await shared.answer()
        except NotReadyError as error:
            return JSONResponse({"error": str(error)}, 503, {"retry-after": "1"})
        return Response(body, headers={"age": str(age)}, media_type="application/json")

    return Starlette(
        routes=[
            *page.routes(),
            Route("/metrics", metrics),
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/api/v1/status", status),
            *comparison.routes(standing.watched),
            *more,
        ],
        middleware=[Middleware(Guard, access=access)],
    )


class Guard:
    """Lets a request through whose token and certificate are good, or that asks for a probe or for the page.

    A connection without the certificate that others need has `certified` False in its scope's state.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._refusal(scope) or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            return None
        if not scope.get("state", {}).get("certified", True):
            return PlainTextResponse("a client certificate is needed\n", 403)
        if page.is_open(scope["path"]):
            return None
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        authorization = given[0] if len(given) == 1 else None
        if self._access.admits(authorization):
            if scope["path"] != INPUTS_PATH or self._access.sees_inputs(authorization):
                return None
            text = "kept inputs are shown for a token of server.admin_token_file only"
            return JSONResponse({"error": text}, 403)
        text = "a header `authorization: Bearer <token>` with a valid token is needed\n"
        return PlainTextResponse(text, 401, {"www-authenticate": "Bearer"})


def model_status(source: Watched, window_seconds: float) -> dict[str, Any]:
    """One model's telemetry and the state of each of its layers over the window; null for what is not known yet."""
    telemetry = source.status()
    answer: dict[str, Any] = {
        "model": source.model,
        "version": source.version,
        "ready": source.ready(),
        "instrumented": telemetry.instrumented,
        "detail": telemetry.detail,
        "sample_rate": telemetry.sample_rate,
        "sampled_requests": telemetry.sampled,
        "refused_samples": telemetry.refused,
        "dropped_samples": dict(telemetry.dropped),
        "telemetry_failures": dict(telemetry.failures),
        "telemetry_seconds": telemetry.telemetry_seconds,
        "inference_seconds": telemetry.inference_seconds,
        "layers": [],
    }
    if source.timeline is None or source.monitor is None:
        return answer
    drift = source.monitor.state()
    answer |= {
        "reference_requests": drift.reference_requests,
        "reference_ready": drift.reference_ready,
        "reference_small": drift.reference_small,
        "reference_widening": _number(drift.reference_widening),
        "strata": list(drift.strata),
        "judged_requests": drift.judged_requests,
        "model_evidence": _number(drift.model_evidence),
        "alarm_level": drift.alarm_level,
        "layer_alarm_level": drift.layer_alarm_level,
        "model_alarms": drift.model_alarms,
        "direction_evidence": drift.direction_evidence,
        "output": plain(asdict(drift.output)) if drift.output else None,
        "cause": plain(asdict(drift.cause)) if drift.cause else None,
        "across_layers": plain(asdict(drift.across)),
    }
    pace = Pace()
    for layer in drift.layers:
        pace()
        window = source.timeline.window(window_seconds, layer.tap)
        total = source.timeline.total(layer.tap).counts
        answer["layers"].append(
            {
                "layer": layer.tap.layer,
                "site": layer.tap.site,
                "module": layer.tap.module,
                "channels": layer.tap.channels,
                "silent": layer.tap in telemetry.silent,
                "requests": total.requests,
                "nonfinite": total.nan + total.pos_inf + total.neg_inf,
                "subnormals": total.subnormals,
                "mean": _number(window.moments.mean if window.moments.n else math.nan),
                "stddev": _number(window.moments.stddev if window.moments.n else math.nan),
                "zero_share": _number(window.zero_share),
                "near_zero_share": _number(window.near_zero_share),
                "outlier_share": _number(window.outlier_share),
                "absmax": _number(window.absmax),
                "kurtosis": _number(window.kurtosis),
                "evidence": _number(layer.evidence),
                "active": layer.active,
                "alarms": layer.alarms,
                "alarm_ordinals": list(layer.alarm_ordinals),
                "psi": _number(layer.effects.psi),
                "jensen_shannon": _number(layer.effects.jensen_shannon),
                "kolmogorov_smirnov": _number(layer.effects.kolmogorov_smirnov),
                "wasserstein": _number(layer.effects.wasserstein),
                "mean_shift": _number(layer.effects.mean_shift),
                "frechet": _number(layer.effects.frechet),
                "frechet_of_channel_means": layer.effects.frechet_of_channel_means,
                "no_drift_levels": plain(layer.effects.levels),
                "times_level": _number(layer.effects.times_level),
                "shifted_statistic": layer.shifted_statistic,
                "worst_channels": [[channel, _number(shift)] for channel, shift in layer.worst_channels],
                "dead_channels": layer.instability.dead_channels,
                "instability": plain(asdict(layer.instability)),
                "between_requests": plain(asdict(layer.between)),
            }
        )
    return answer


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None
