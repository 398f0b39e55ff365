"""What a report tells: the answers to all that the page would ask about one range of one model version."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sidecar.console.answers import TapAnswer
from sidecar.console.api import METHODS
from sidecar.console.hindsight import Hindsight
from sidecar.console.questions import DriftQuestion, Filter, Order, Range
from sidecar.console.scope import Scope
from sidecar.errors import InvalidInputError, RequestError, WithheldError
from sidecar.timeline import Subject
from sidecar.timeline.statistics import STATISTICS

UNITS = 3
"""Of each layer the course of so many units is told for each reason that a reader may have to ask about one."""

_LISTED = 20
_SPIKES = 40


@dataclass(frozen=True, slots=True)
class Reported:
    """begin, end: seconds since the epoch; or step in their place. An empty model or version is the first one kept."""

    model: str = ""
    version: str = ""
    begin: float | None = None
    end: float | None = None
    step: int | None = None


def answers(scope: Scope, reported: Reported, hindsight: Hindsight) -> dict[str, object]:
    """Key of a question -> its answer, or why it is refused.

    Raises UnknownModelError, or InvalidInputError where no panes are kept, or not that step.
    """
    return dict(_Writer(scope, reported, hindsight).everything())


class _Writer:
    def __init__(self, scope: Scope, reported: Reported, hindsight: Hindsight) -> None:
        self._scope = scope
        subject = scope.subject(DriftQuestion(model=reported.model, version=reported.version))
        taps = METHODS["ListTaps"]
        self._taps = json.loads(taps.answer_to(scope, taps.question()).model_dump_json())
        (self._model,) = (
            one
            for one in self._taps["models"]
            if (one["model"], one["version"]) == (subject.model, subject.version)
        )
        self._which = {"model": subject.model, "version": subject.version}
        self._oldest = self._model["first"]
        self._range = self._chosen(subject, reported)
        self._scope = self._judged(subject, hindsight)

    def _judged(self, subject: Subject, hindsight: Hindsight) -> Scope:
        """With what drift has to say of the range, unless it is of too few requests."""
        seen = self._scope.seen(Range.model_validate({**self._which, **self._range}))
        try:
            watched = hindsight.watched(subject, {tap: seen.sketch(tap) for tap in subject.taps})
        except WithheldError:
            return self._scope
        return replace(self._scope, watched=(watched,)) if watched else self._scope

    def _chosen(self, subject: Subject, reported: Reported) -> dict[str, Any]:
        first, last = self._model["first"], self._model["last"]
        if reported.step is not None or (last is None and self._model["steps"]):
            step = self._model["steps"][-1] if reported.step is None else reported.step
            self._scope.panes(subject, Range(step=step))
            self._model |= {
                "first": None,
                "last": None,
                "steps": [one for one in self._model["steps"] if one <= step],
            }
            return {"step": step}
        if last is None:
            raise InvalidInputError("the store holds no panes of this model version")
        begin = first if reported.begin is None else reported.begin
        end = last if reported.end is None else reported.end
        self._model |= {"first": max(first, begin), "last": min(last, end), "steps": []}
        return {"begin": begin, "end": end}

    def everything(self) -> Iterator[tuple[str, object]]:
        yield "taps", {**self._taps, "models": [self._model], "store": None}
        yield "status", {"models": [], "store": None}
        yield self._asked("GetDrift")
        yield self._asked("ListBaselines", of_model=False)
        along = {"axis": "step"} if "step" in self._range else {"axis": "time", **self._range}
        for statistic in STATISTICS:
            yield self._asked("GetMatrix", {"statistic": statistic, **along}, columns=240)
        for tap in self._model["taps"]:
            yield from self._layer(TapAnswer.model_validate(tap), along)
        yield from self._compared()

    def _layer(self, tap: TapAnswer, along: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
        where = {"layer": tap.layer, "site": tap.site}
        key, layer = self._asked("GetLayer", {**where, **self._range}, spikes=_SPIKES)
        yield key, layer
        yield self._asked("GetHistogram", {**where, **self._range}, per_octave=4)
        told: dict[int, list[str]] = {}
        wanted = [(Filter.ALL, order) for order in Order]
        for filtered, order in [*wanted, *((one, Order.ABSMAX) for one in _PAGED)]:
            asked = {**where, **self._range, "filter": filtered.value, "order": order.value}
            key, found = self._asked("ListNeurons", asked, limit=_LISTED)
            if reason := _REASONS.get((filtered, order)):
                known = [one for one in found.get("neurons", []) if order is not Order.SHIFT or one["shift"]]
                for one in known[:UNITS]:
                    told.setdefault(one["channel"], []).append(reason)
            yield key, found | {"next_offset": None}
        for one in layer.get("spikes", [])[:UNITS]:
            told.setdefault(one["channel"], []).append("a spike")
        units = [{"channel": channel, "reasons": reasons} for channel, reasons in told.items()]
        yield f"units layer={tap.layer} site={tap.site}", {"units": units}
        for channel in told:
            yield self._asked("GetNeuron", {**where, **along, "channel": channel}, points=300)

    def _compared(self) -> Iterator[tuple[str, object]]:
        """The range beside the one before it, or its own first half; a step beside the one before it."""
        if "step" in self._range:
            earlier = self._model["steps"][:-1]
            if not earlier:
                return
            right = {"step": earlier[-1]}
        else:
            begin, end = self._range["begin"], self._range["end"]
            before = {"begin": max(2 * begin - end, 0.0), "end": begin}
            right = before if self._oldest < begin else {"begin": begin, "end": (begin + end) / 2}
        others = {f"other_{key}": value for key, value in right.items()}
        yield self._asked("Compare", {**self._range, **others})
        for tap in self._model["taps"]:
            where = {"layer": tap["layer"], "site": tap["site"]}
            key, found = self._asked("GetLayer", {**where, **right}, spikes=_SPIKES)
            yield f"{key} right", found
            key, found = self._asked("GetHistogram", {**where, **right}, per_octave=4)
            yield f"{key} right", found

    def _asked(
        self, name: str, fields: Mapping[str, Any] | None = None, *, of_model: bool = True, **limits: int
    ) -> tuple[str, Any]:
        """Key and answer. limits, and the range, are not part of the key."""
        method, fields = METHODS[name], fields or {}
        question = method.question(**{**(self._which if of_model else {}), **fields, **limits})
        told = sorted(f"{key}={value}" for key, value in fields.items() if not key.endswith(_OF_RANGE))
        key = " ".join([method.path, *told])
        try:
            return key, json.loads(method.answer_to(self._scope, question).model_dump_json())
        except RequestError as error:
            return key, {"refused": str(error)}


_REASONS = {
    (Filter.ALL, Order.ABSMAX): "largest magnitude",
    (Filter.ALL, Order.SHIFT): "moved most",
    (Filter.DEAD, Order.ABSMAX): "dead",
}
_PAGED = (Filter.DEAD, Filter.ALWAYS_ON, Filter.MASSIVE)
_OF_RANGE = ("begin", "end", "step")
