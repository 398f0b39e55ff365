"""The API: one table of methods, asked over HTTP as JSON and over gRPC, answered off the request path."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sidecar.console import answers, cofiring, comparisons, course, drivers, layers, questions
from sidecar.console.answers import Answer
from sidecar.console.budget import Budget
from sidecar.console.elsewhere import Elsewhere, Place
from sidecar.console.lane import Lane
from sidecar.console.openapi import Method, document
from sidecar.console.questions import Question
from sidecar.console.reruns import Reruns
from sidecar.console.scope import Scope
from sidecar.console.summary import FURTHER
from sidecar.drift import Reference
from sidecar.errors import (
    InvalidInputError,
    NotReadyError,
    OverloadedError,
    RequestError,
    StoreError,
    UnknownModelError,
    WithheldError,
)
from sidecar.export.activations import Watched
from sidecar.settings import ConsoleSettings
from sidecar.timeline import History, StoreStatus
from sidecar.types import Clock

_log = logging.getLogger(__name__)

WAITING = 32
"""Questions that are being answered or wait; more are refused."""

REPLAYS_WAITING = 2
"""The same of those for which inputs are run again: a connection lasts ten seconds, and each may take three."""

METHODS: Mapping[str, Method] = {
    "ListTaps": Method("taps", questions.TapsQuestion, answers.TapsAnswer, comparisons.taps),
    "GetLayer": Method("layer", questions.LayerQuestion, answers.LayerAnswer, layers.layer),
    "GetHistogram": Method(
        "histogram", questions.HistogramQuestion, answers.HistogramAnswer, layers.histogram
    ),
    "ListNeurons": Method("neurons", questions.NeuronsQuestion, answers.NeuronsAnswer, layers.neurons),
    "GetNeuron": Method("neuron", questions.NeuronQuestion, answers.NeuronAnswer, course.neuron),
    "GetDrivers": Method("drivers", questions.DriversQuestion, answers.DriversAnswer, drivers.drivers),
    "GetCofiring": Method("cofiring", questions.CofiringQuestion, answers.CofiringAnswer, cofiring.cofiring),
    "GetInputs": Method(
        "inputs", questions.InputsQuestion, answers.InputsAnswer, drivers.inputs, runs_model=True
    ),
    "GetMatrix": Method("matrix", questions.MatrixQuestion, answers.MatrixAnswer, course.matrix),
    "GetDrift": Method("drift", questions.DriftQuestion, answers.DriftAnswer, comparisons.drift),
    "ListBaselines": Method(
        "baselines", questions.BaselinesQuestion, answers.BaselinesAnswer, comparisons.baselines
    ),
    "Compare": Method("compare", questions.CompareQuestion, answers.CompareAnswer, comparisons.compare),
}
"""Method of `sidecar.v1.ActivationTelemetry` -> its path under /api/v1, and what answers it."""

HTTP_STATUS: Mapping[type[RequestError], int] = {
    InvalidInputError: 400,
    WithheldError: 403,
    UnknownModelError: 404,
    OverloadedError: 429,
    NotReadyError: 503,
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sources:
    """What answers are made from. store: how the panes on disk fare; None where none are kept."""

    history: History
    watched: Sequence[Watched]
    store: Callable[[], StoreStatus] | None
    elsewhere: Elsewhere


class Api:
    """Answers questions one after the other, on a thread of its own; those that run the model on a second one.

    budget: what answers may cost, here and wherever else it is charged.
    clock: seconds since the epoch. monotonic: seconds that only go forward.
    """

    def __init__(
        self, sources: Sources, settings: ConsoleSettings, clock: Clock, monotonic: Clock = time.monotonic
    ) -> None:
        self._sources, self._clock = sources, clock
        self._min_requests = settings.min_requests
        self.budget = Budget(settings.budget, monotonic)
        self._closing = threading.Event()
        self._reruns = Reruns(settings.budget, monotonic, self._closing.wait)
        self._usual = Lane("sidecar-api", WAITING)
        self._replays = Lane("sidecar-replay", REPLAYS_WAITING)

    def close(self) -> None:
        self._closing.set()
        self._sources.elsewhere.close()
        for lane in (self._usual, self._replays):
            lane.close(wait=True)

    async def ask(self, name: str, given: Mapping[str, object], render: Callable[[Answer], T]) -> T:
        """The rendered answer of one of METHODS. Raises RequestError, as in HTTP_STATUS."""
        method = METHODS[name]
        try:
            question = method.question.model_validate(given)
        except ValidationError as error:
            raise InvalidInputError("; ".join(map(_sentence, error.errors()))) from None
        self.budget.admit()
        elsewhere = await self._sources.elsewhere.references(question.ranges, self.budget.charge)
        lane = self._replays if method.runs_model else self._usual
        return await lane.run(functools.partial(self._answer, method, question, elsewhere, render))

    def _answer(
        self,
        method: Method,
        question: Question,
        elsewhere: Mapping[Place, Reference],
        render: Callable[[Answer], T],
    ) -> T:
        began = time.thread_time()
        sources = self._sources
        try:
            with sources.history.open() as recall:
                scope = Scope(
                    recall,
                    tuple(sources.watched),
                    sources.store,
                    self._min_requests,
                    self._clock,
                    elsewhere,
                    sources.elsewhere.sources,
                    self._reruns if method.runs_model else None,
                )
                return render(method.answer_to(scope, question))
        except StoreError as error:
            _log.error("a question could not be answered: %s", error)
            raise NotReadyError("the store cannot be read now; the log says why") from error
        finally:
            # Running the model again keeps to the budget by its rests.
            if not method.runs_model:
                self.budget.charge(time.thread_time() - began)

    def routes(self) -> list[Route]:
        """One for each method, and the OpenAPI document."""
        described = JSONResponse(document(METHODS, FURTHER)).body

        async def openapi(_: Request) -> Response:
            return Response(described, media_type="application/json")

        found = [
            Route(f"/api/v1/{method.path}", functools.partial(self._over_http, name))
            for name, method in METHODS.items()
        ]
        return [*found, Route("/api/v1/openapi.json", openapi)]

    async def _over_http(self, name: str, request: Request) -> Response:
        try:
            # A list may come as one field with commas or as several; of anything else one too many is refused so.
            given = {key: ",".join(request.query_params.getlist(key)) for key in request.query_params}
            body = await self.ask(name, given, as_json)
        except RequestError as error:
            status = HTTP_STATUS.get(type(error), 500)
            retry = {"retry-after": "1"} if status in (429, 503) else {}
            return JSONResponse({"error": str(error)}, status, retry)
        return Response(body, media_type="application/json", headers={"cache-control": "no-store"})


def as_json(answer: Answer) -> bytes:
    return answer.model_dump_json().encode()


def as_tree(answer: Answer) -> dict[str, Any]:
    """Of dicts and lists, with NaN where a number is not known; the state of drift as JSON text."""
    tree = answer.model_dump()
    if isinstance(answer, answers.DriftAnswer):
        tree["state"] = to_json(answer.state, inf_nan_mode="null").decode()
    return tree


def _sentence(detail: Any) -> str:
    key = ".".join(map(str, detail["loc"])) or "the question"
    reason = str(detail["msg"]).removeprefix("Value error, ")
    kind = detail["type"]
    if kind == "extra_forbidden":
        return f"{key} is no field of this question"
    if kind == "missing":
        return f"{key} is missing and must be given"
    return f"{key}: {reason[0].lower()}{reason[1:]}"
