"""What was seen at any time: panes of the store and, newer than those, panes in memory."""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sidecar.errors import SketchError, StoreError
from sidecar.sketch import Channels, TapSketch, compact
from sidecar.timeline import schema
from sidecar.timeline.schema import Subject
from sidecar.timeline.statistics import STATISTICS
from sidecar.timeline.store import read_column
from sidecar.timeline.timeline import Pane, Timeline
from sidecar.types import Tap

_log = logging.getLogger(__name__)

Timelines = Mapping[tuple[str, str], Timeline]
"""Model and version -> what is in memory of it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A pane of `subject`, in the store under `number` or `live` in memory. With span 0, `start` is a step."""

    subject: Subject
    start: float
    span: float
    requests: int
    number: int = 0
    live: Pane | None = None


class History:
    """path: of the store; None without one. Reading never waits for writing."""

    def __init__(
        self,
        path: Path | None,
        timelines: Callable[[], Timelines],
        damaged: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._path, self._timelines, self._damaged = path, timelines, damaged

    @contextmanager
    def open(self) -> Iterator[Recall]:
        """One look at all of it; what is in memory if the store cannot be opened.

        Raises StoreError for a store that turns out to be damaged, in the block too; `damaged` is told why.
        """
        timelines = self._timelines()
        try:
            with ExitStack() as stack:
                yield Recall(self._connect(stack), timelines)
        except SketchError as error:
            self._damaged(str(error))
            raise StoreError(f"the store {self._path} is damaged: {error}") from error

    def _connect(self, stack: ExitStack) -> sqlite3.Connection | None:
        if self._path is None or not self._path.exists():
            return None
        try:
            return stack.enter_context(schema.reading(self._path))
        except StoreError as error:
            _log.error("%s; only what is in memory is shown", error)
        except SketchError as error:
            self._damaged(str(error))
        return None


class Recall:
    """Panes as they stand at one moment. Methods raise StoreError, or SketchError for damaged bytes."""

    def __init__(self, connection: sqlite3.Connection | None, timelines: Timelines) -> None:
        self._connection = connection
        self._timelines = timelines
        self._subjects: dict[int, Subject] = {}
        if connection:
            for number, *key in connection.execute(
                "SELECT id, model, version, taps FROM subject ORDER BY id"
            ):
                self._subjects[number] = Subject.read(*key)

    def subjects(self) -> list[Subject]:
        """Of all panes, those in memory last; a model version whose taps changed has several."""
        live = [Subject(*key, timeline.taps) for key, timeline in self._timelines.items()]
        return [*(subject for subject in self._subjects.values() if subject not in live), *live]

    def panes(self, model: str, version: str, begin: float = -math.inf, end: float = math.inf) -> list[Kept]:
        """Panes of time that touch [begin, end), of every span: those of a coarse one overlap those of a fine one."""
        where = "p.span > 0 AND p.start < ? AND p.start + p.span > ?"
        stored = self._stored(model, version, where, end, begin)
        return [
            *stored,
            *(
                pane
                for pane in self._live(model, version)
                if begin < pane.start + pane.span and pane.start < end
            ),
        ]

    def steps(self, model: str, version: str) -> list[Kept]:
        """Panes by training step, lowest first."""
        return self._stored(model, version, "p.span = 0")

    def sketches(self, panes: Sequence[Kept], tap: Tap) -> Iterator[tuple[Kept, TapSketch]]:
        """Of each pane that has the tap, in the order of `panes`."""
        bodies = self._bodies(panes, tap)
        for pane in panes:
            if pane.live:
                if tap in pane.live.sketches:
                    yield pane, pane.live.sketches[tap]
            elif pane.number in bodies:
                yield pane, compact.unpack(bodies[pane.number])

    def channel(self, panes: Sequence[Kept], tap: Tap, index: int) -> Iterator[tuple[Kept, int, Channels]]:
        """Of each pane that has the tap: requests, and that channel alone."""
        bodies = self._bodies(panes, tap)
        for pane in panes:
            if pane.live:
                if tap in pane.live.sketches:
                    sketch = pane.live.sketches[tap]
                    yield pane, sketch.counts.requests, sketch.channels.only(index)
            elif pane.number in bodies:
                yield pane, *compact.unpack_channel(bodies[pane.number], index)

    def merged(self, panes: Sequence[Kept], tap: Tap) -> TapSketch:
        merged = TapSketch.empty(tap.channels)
        for _, sketch in self.sketches(panes, tap):
            merged.merge(sketch)
        return merged

    def values(self, panes: Sequence[Kept], taps: Sequence[Tap], statistic: str) -> npt.NDArray[np.float64]:
        """float64[taps, panes] of one of STATISTICS; NaN where a pane does not have it."""
        found = np.full((len(taps), len(panes)), np.nan)
        compute = STATISTICS[statistic].of
        columns = self._columns(panes, taps, statistic)
        for column, pane in enumerate(panes):
            if pane.live is None:
                found[:, column] = columns[pane.number]
            elif compute:
                for row, tap in enumerate(taps):
                    if tap in pane.live.sketches:
                        found[row, column] = compute(pane.live.sketches[tap])
        return found

    def _stored(self, model: str, version: str, where: str, *values: float) -> list[Kept]:
        if self._connection is None:
            return []
        query = (
            "SELECT p.subject, p.start, p.span, p.requests, p.id FROM pane p JOIN subject s ON s.id = p.subject "
            f"WHERE s.model = ? AND s.version = ? AND {where} ORDER BY p.start, p.span"
        )
        found = self._connection.execute(query, (model, version, *values))
        return [Kept(self._subjects[subject], *rest) for subject, *rest in found]

    def _live(self, model: str, version: str) -> list[Kept]:
        """Panes in memory that the store does not have yet."""
        timeline = self._timelines.get((model, version))
        if timeline is None:
            return []
        subject = Subject(model, version, timeline.taps)
        newest = max((pane.start for pane in self._stored(model, version, "p.span > 0")), default=-math.inf)
        return [
            Kept(subject, pane.start, pane.span, pane.requests, live=pane)
            for pane in timeline.panes()
            if pane.start > newest
        ]

    def _bodies(self, panes: Sequence[Kept], tap: Tap) -> dict[int, bytes]:
        """Number of a pane -> the packed sketch of `tap`."""
        found: dict[int, bytes] = {}
        for subject, numbers in self._by_subject(panes):
            if self._connection and tap in subject.taps:
                query = f"SELECT pane, body FROM sketch WHERE tap = ? AND pane IN ({_marks(numbers)})"
                found |= dict(self._connection.execute(query, (subject.taps.index(tap), *numbers)).fetchall())
        return found

    def _columns(
        self, panes: Sequence[Kept], taps: Sequence[Tap], statistic: str
    ) -> dict[int, npt.NDArray[np.float64]]:
        """Number of a pane -> one of its statistics, float64[taps]."""
        found = {}
        for subject, numbers in self._by_subject(panes):
            rows = [row for row, tap in enumerate(taps) if tap in subject.taps]
            places = [subject.taps.index(taps[row]) for row in rows]
            if self._connection:
                query = f"SELECT id, names, statistics FROM pane WHERE id IN ({_marks(numbers)})"
                for number, names, stored in self._connection.execute(query, numbers):
                    found[number] = np.full(len(taps), np.nan)
                    found[number][rows] = read_column(names, stored, len(subject.taps), statistic)[places]
        return found

    def _by_subject(self, panes: Sequence[Kept]) -> list[tuple[Subject, list[int]]]:
        """Of each subject the numbers of its stored panes."""
        return [
            (subject, [pane.number for pane in panes if pane.subject is subject and pane.live is None])
            for subject in self._subjects.values()
        ]


def _marks(numbers: Sequence[int]) -> str:
    return ", ".join("?" * len(numbers))
