"""Baselines and replicas that the settings name, to be looked at and compared with what is kept here."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

from sidecar.console.lane import Lane
from sidecar.console.questions import Range
from sidecar.drift import Reference
from sidecar.errors import BaselineError, InvalidInputError, NotReadyError, UnreachableError
from sidecar.settings import ConsoleSettings
from sidecar.types import Clock

_log = logging.getLogger(__name__)

KEEP_SECONDS = 10.0
"""A page asks several questions about one side of a comparison. A baseline is kept until its file changes."""

WAITING = 8
"""Questions that wait for one source; more are refused."""

_MOST_KEPT = 4

Fetch = Callable[[str, str | None, str | None, str | None], Reference]
"""Address, model, version and token of a replica -> its window.

Raises BaselineError, and UnreachableError, which is one, where no other model's window could be had either.
"""


class Place(NamedTuple):
    """Where a reference is to be had: a source as questions name it, and of a replica the model version."""

    source: str
    model: str = ""
    version: str = ""

    @classmethod
    def of(cls, asked: Range) -> Place:
        named = asked.source.startswith("replica:")
        return cls(asked.source, asked.model, asked.version) if named else cls(asked.source)


class Elsewhere:
    """Loads what is asked for on threads of its own, one for each source: one that is slow delays no other's answer.

    clock: seconds that only go forward.
    """

    def __init__(self, settings: ConsoleSettings, fetch: Fetch, clock: Clock) -> None:
        self._baselines = {f"baseline:{name}": path for name, path in settings.baselines.items()}
        self._replicas = {f"replica:{name}": url for name, url in settings.replicas.items()}
        self._token_file = settings.replica_token_file
        self._fetch, self._clock = fetch, clock
        self._lanes = {source: Lane("sidecar-elsewhere", WAITING) for source in self.sources}
        self._lock = threading.Lock()
        self._kept: OrderedDict[Place, tuple[object, Reference | BaselineError]] = OrderedDict()
        self._unreachable_until: dict[str, float] = {}

    @property
    def sources(self) -> list[str]:
        return [*self._baselines, *self._replicas]

    async def references(
        self, asked: Iterable[Range], charge: Callable[[float], None]
    ) -> Mapping[Place, Reference]:
        """Of those that are neither panes nor a live reference. charge: told the CPU seconds that loading took.

        Raises InvalidInputError for a source that is not named, NotReadyError for one that cannot be had now, and
        OverloadedError where too many wait for it.
        """
        wanted = {Place.of(one) for one in asked if ":" in one.source}
        for place in wanted:
            if place.source not in self._lanes:
                there = ", ".join(["reference", *self.sources])
                raise InvalidInputError(f"there is no source {place.source!r}; there are {there}")
        return {
            place: await self._lanes[place.source].run(partial(self._reference, place, charge))
            for place in wanted
        }

    def close(self) -> None:
        """Not waited for: a replica that hangs would hold up the stop."""
        for lane in self._lanes.values():
            lane.close(wait=False)

    def _reference(self, place: Place, charge: Callable[[float], None]) -> Reference:
        refusal = NotReadyError(f"{place.source} cannot be had now; the log says why")
        if self._clock() < self._unreachable_until.get(place.source, -math.inf):
            raise refusal
        state = self._state(place)
        with self._lock:
            of, found = self._kept.get(place, (None, None))
        if found is None or state != of:
            began = time.thread_time()
            found = self._loaded(place)
            charge(time.thread_time() - began)
            self._keep(place, state, found)
        if isinstance(found, BaselineError):
            raise refusal
        return found

    def _keep(self, place: Place, state: object, found: Reference | BaselineError) -> None:
        if isinstance(found, UnreachableError):
            self._unreachable_until[place.source] = self._clock() + KEEP_SECONDS
            return
        with self._lock:
            self._kept[place] = state, found
            self._kept.move_to_end(place)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)

    def _state(self, place: Place) -> object:
        """Differs once what is kept of the place is not what is there."""
        if place.source in self._replicas:
            return int(self._clock() // KEEP_SECONDS)
        try:
            found = self._baselines[place.source].stat()
        except OSError:
            return "missing"
        return found.st_mtime_ns, found.st_size

    def _loaded(self, place: Place) -> Reference | BaselineError:
        try:
            if place.source in self._baselines:
                return Reference.load(self._baselines[place.source])
            address = self._replicas[place.source]
            return self._fetch(address, place.model or None, place.version or None, self._token())
        except BaselineError as error:
            _log.warning("%s cannot be had: %s", place.source, error)
            return error

    def _token(self) -> str | None:
        if self._token_file is None:
            return None
        try:
            return self._token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UnreachableError(f"cannot read {self._token_file}: {error}") from error
