"""Sketches over time: panes of equal span, of which any window is a merge."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sidecar.errors import SketchError
from sidecar.sketch import Distinct, Reading, RequestRows, TapSketch, patterns, signatures
from sidecar.types import Clock, Tap

MAX_ROWS = 4096


@dataclass(slots=True)
class _Pane:
    start: float
    sketches: dict[Tap, TapSketch] = field(default_factory=dict)
    distinct: dict[Tap, Distinct] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Pane:
    """What was seen from `start`, seconds since the epoch, for `span` seconds.

    With span 0, what was seen at training step `start`.
    """

    start: float
    span: float
    sketches: Mapping[Tap, TapSketch]

    @property
    def requests(self) -> int:
        return max((sketch.counts.requests for sketch in self.sketches.values()), default=0)


class Timeline:
    """The last `keep_panes` panes of `pane_seconds`, and everything since the start in one more sketch.

    One thread adds and any may read. Of the request rows the newest 4,096 are kept, because their
    number grows with traffic while a pane does not. Time here never runs backwards: when the clock is
    set back, later readings go on from where the last one stood, in whole panes.

    on_closed: called by the adding thread with each pane that is complete, which nothing changes any more.
    """

    def __init__(self, taps: Sequence[Tap], pane_seconds: float, keep_panes: int, clock: Clock) -> None:
        self.taps = tuple(taps)
        self._pane_seconds = pane_seconds
        self._clock = clock
        self._panes: deque[_Pane] = deque(maxlen=keep_panes)
        self._readings: deque[tuple[float, Reading]] = deque()
        self._held_rows = 0
        self._totals = {tap: TapSketch.empty(tap.channels) for tap in taps}
        self._merged: dict[tuple[Tap, float, float], TapSketch] = {}
        self._newest = -math.inf
        self._set_back = 0.0
        self._lock = threading.Lock()
        self._handed_on = -math.inf
        self.on_closed: Callable[[Pane], None] = lambda _: None

    def add(self, reading: Reading) -> None:
        """Count a reading in. Raises SketchError for a tap or a width that is not of this timeline."""
        for tap, sketch in reading.sketches.items():
            if tap not in self._totals or len(sketch.channels) != tap.channels:
                raise SketchError(f"tap {tap.key} with {len(sketch.channels)} channels is not watched here")
        closed = None
        with self._lock:
            at = self._forward(reading.at)
            start = math.floor(at / self._pane_seconds) * self._pane_seconds
            if not self._panes or self._panes[-1].start < start:
                closed = self._panes[-1] if self._panes else None
                self._panes.append(_Pane(start))
                self._merged.clear()
            pane = self._panes[-1].sketches
            for tap, sketch in reading.sketches.items():
                self._totals[tap].merge(sketch)
                if tap in pane:
                    pane[tap].merge(sketch)
                else:
                    pane[tap] = sketch.copy()
            _count_distinct(self._panes[-1].distinct, reading.rows)
            self._keep_rows(start, reading)
        if closed:
            self._hand_on(closed)

    def close(self) -> None:
        """Hand on the pane that is still open; to be called by the adding thread's owner, when nothing is added."""
        if self._panes:
            self._hand_on(self._panes[-1])

    def panes(self) -> list[Pane]:
        """Those in memory, oldest first; the last may still be open, and what is given is how it stands now."""
        with self._lock:
            found = [Pane(pane.start, self._pane_seconds, pane.sketches) for pane in self._panes]
            if found:
                copied = {tap: sketch.copy() for tap, sketch in found[-1].sketches.items()}
                found[-1] = replace(found[-1], sketches=copied)
        return found

    def window(self, seconds: float, tap: Tap, ago: float = 0.0) -> TapSketch:
        """Merge of the panes whose span touches the last `seconds`: up to one pane more than asked for.

        ago: seconds by which the window lies back; what touches those is not in it.
        """
        with self._lock:
            begin, end = self._begin(seconds + ago), self._begin(ago) if ago else math.inf
            panes = [pane for pane in self._panes if begin < pane.start <= end]
            is_open = bool(panes) and panes[-1] is self._panes[-1]
            merged = self._closed(tap, panes[:-1] if is_open else panes).copy()
            if is_open and tap in panes[-1].sketches:
                merged.merge(panes[-1].sketches[tap])
        return merged

    def _closed(self, tap: Tap, panes: Sequence[_Pane]) -> TapSketch:
        """Merge of panes that nothing changes any more, kept until the next one closes, because many ask for it."""
        if not panes:
            return TapSketch.empty(tap.channels)
        key = (tap, panes[0].start, panes[-1].start)
        if key not in self._merged:
            merged = self._merged[key] = TapSketch.empty(tap.channels)
            for pane in panes:
                if tap in pane.sketches:
                    merged.merge(pane.sketches[tap])
        return self._merged[key]

    def distinct(self, seconds: float, tap: Tap) -> Distinct:
        """How many `patterns` the requests of the same panes had, however many there were; else `signatures`."""
        merged = Distinct()
        with self._lock:
            begin = self._begin(seconds)
            for pane in self._panes:
                if pane.start > begin and tap in pane.distinct:
                    merged.merge(pane.distinct[tap])
        return merged

    def rows(self, seconds: float, tap: Tap) -> RequestRows:
        """Request rows of the same panes, oldest first, as far as they are kept."""
        return RequestRows.concat([one.rows[tap] for one in self.readings(seconds) if tap in one.rows])

    def readings(self, seconds: float) -> list[Reading]:
        """Readings of the same panes without their sketches, oldest first, as far as their rows are kept."""
        with self._lock:
            begin = self._begin(seconds)
            return [reading for start, reading in self._readings if start > begin]

    def total(self, tap: Tap) -> TapSketch:
        """Everything since the start; its counts never fall."""
        with self._lock:
            return self._totals[tap].copy()

    def _hand_on(self, pane: _Pane) -> None:
        if pane.start > self._handed_on:
            self._handed_on = pane.start
            self.on_closed(Pane(pane.start, self._pane_seconds, pane.sketches))

    def _forward(self, at: float) -> float:
        # A clock that is nudged is no jump: its readings fall into the newest pane.
        if at + self._set_back < self._newest - self._pane_seconds:
            behind = self._newest - at
            self._set_back = math.ceil(behind / self._pane_seconds) * self._pane_seconds
        self._newest = max(self._newest, at + self._set_back)
        return self._newest

    def _begin(self, seconds: float) -> float:
        """A pane that starts after this touches the window."""
        now = max(self._clock() + self._set_back, self._newest)
        return now - seconds - self._pane_seconds

    def _keep_rows(self, start: float, reading: Reading) -> None:
        if not reading.requests:
            return
        # Projections would be most of what is kept, and only judging asks for them.
        rows = {tap: replace(part, projections=part.projections[:, :0]) for tap, part in reading.rows.items()}
        self._readings.append((start, replace(reading, sketches={}, rows=rows, peaks={})))
        self._held_rows += reading.requests
        while len(self._readings) > 1 and self._held_rows > MAX_ROWS:
            _, oldest = self._readings.popleft()
            self._held_rows -= oldest.requests


def _count_distinct(distinct: dict[Tap, Distinct], rows: Mapping[Tap, RequestRows]) -> None:
    if not rows:
        return
    # One pass over all taps, because a reading of a few requests would cost one for each otherwise.
    parts = list(rows.values())
    reached = np.stack([~np.isnan(part.nonfinite) for part in parts])
    if all(part.projections.shape[1] for part in parts):
        hashes = patterns(np.concatenate([part.projections for part in parts]))
    else:
        hashes = signatures(np.concatenate([part.values for part in parts]))
    for tap, seen, chosen in zip(rows, hashes.reshape(reached.shape), reached, strict=True):
        distinct.setdefault(tap, Distinct()).update(seen[chosen])
