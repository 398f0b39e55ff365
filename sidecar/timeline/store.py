"""Panes on disk: one SQLite file, written by one thread, read by any."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sidecar.sketch import TapSketch, compact
from sidecar.timeline import schema
from sidecar.timeline.levels import Level, levels
from sidecar.timeline.schema import Subject, transaction
from sidecar.timeline.statistics import STATISTICS, statistics
from sidecar.timeline.timeline import Pane
from sidecar.types import Tap

Given = Mapping[str, npt.NDArray[np.float64]]
"""Statistics that no sketch has: name -> float64[taps]. Of merged panes the largest is kept."""

_MEGABYTE = 10**6
# Room in the file for a pane of so many bytes: itself, one of each coarser level, and half-filled pages.
_ROOM = 5
_PAGES = 2**16


@dataclass(frozen=True, slots=True)
class Retention:
    """pane_seconds: span of the finest panes. keep_days: how long the coarsest stay. max_megabytes: of 10**6 bytes."""

    pane_seconds: float
    keep_days: float
    max_megabytes: float

    @property
    def levels(self) -> tuple[Level, ...]:
        return levels(self.pane_seconds, self.keep_days)

    @property
    def max_bytes(self) -> int:
        return int(self.max_megabytes * _MEGABYTE)


class Store:
    """The writing side. Every method may raise sqlite3.Error, which has changed nothing, or SketchError.

    Opening raises what `schema.create_or_open` does.
    """

    def __init__(self, path: Path, retention: Retention) -> None:
        self.path = path
        self._retention = retention
        self._levels = retention.levels
        self._connection = schema.create_or_open(path, retention.max_bytes)

    def close(self) -> None:
        self._connection.close()

    def write(self, subject: Subject, pane: Pane, given: Given, now: float) -> None:
        """Keep a pane that is complete, the coarser ones that it completes, and let go what is too old.

        A pane of the same subject and start is merged with; a training step is replaced.
        """
        packed = _Packed.of(subject.taps, pane.sketches, given)
        self._make_room(_ROOM * packed.bytes + _PAGES)
        with transaction(self._connection):
            owner = self._subject(subject)
            if not pane.span:
                self._forget("subject = ? AND span = 0 AND start = ?", (owner, pane.start))
                self._insert(owner, 0.0, pane.start, packed)
            else:
                self._merge_into(subject, owner, pane.span, pane.start, packed)
                self._late(subject, owner, pane, packed)
                self._roll_up(subject, owner, pane.start + pane.span)
                self._expire(now)

    def copy_steps(self, path: Path) -> None:
        """Keep the training steps of another store in this one, which is empty."""
        self._connection.execute("ATTACH DATABASE ? AS other", (str(path),))
        try:
            with transaction(self._connection):
                self._connection.execute("INSERT INTO subject SELECT * FROM other.subject")
                self._connection.execute("INSERT INTO pane SELECT * FROM other.pane WHERE span = 0")
                self._connection.execute(
                    "INSERT INTO sketch SELECT * FROM other.sketch WHERE pane IN (SELECT id FROM pane)"
                )
        finally:
            self._connection.execute("DETACH DATABASE other")

    def newest(self) -> float | None:
        """Start of the newest pane of time; None without any."""
        (found,) = self._connection.execute("SELECT max(start) FROM pane WHERE span > 0").fetchone()
        return None if found is None else float(found)

    def used_bytes(self) -> int:
        """What panes take in the file; emptied pages count as free, as they are used again."""
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def _subject(self, subject: Subject) -> int:
        key = (subject.model, subject.version, subject.taps_text())
        self._connection.execute("INSERT OR IGNORE INTO subject (model, version, taps) VALUES (?, ?, ?)", key)
        query = "SELECT id FROM subject WHERE model = ? AND version = ? AND taps = ?"
        return int(self._connection.execute(query, key).fetchone()[0])

    def _insert(self, owner: int, span: float, start: float, packed: _Packed) -> None:
        row = self._connection.execute(
            "INSERT INTO pane (subject, span, start, requests, bytes, names, statistics) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (owner, span, start, packed.requests, packed.bytes, packed.names, packed.statistics),
        )
        self._connection.executemany(
            "INSERT INTO sketch (pane, tap, body) VALUES (?, ?, ?)",
            [(row.lastrowid, tap, body) for tap, body in packed.bodies.items()],
        )

    def _merge_into(self, subject: Subject, owner: int, span: float, start: float, packed: _Packed) -> None:
        """Keep as the pane at `start`, together with what is there already."""
        at = (owner, span, start)
        query = "SELECT id FROM pane WHERE subject = ? AND span = ? AND start = ?"
        there = [row[0] for row in self._connection.execute(query, at)]
        if there:
            packed = self._merged(subject.taps, there, packed)
            self._forget("subject = ? AND span = ? AND start = ?", at)
        self._insert(owner, span, start, packed)

    def _late(self, subject: Subject, owner: int, pane: Pane, packed: _Packed) -> None:
        """A pane that comes after a coarser one was made, because a clock went back, belongs to that one too."""
        query = (
            "SELECT span, start FROM pane WHERE subject = ? AND span > ? AND start <= ? AND start + span > ?"
        )
        for span, start in self._connection.execute(
            query, (owner, pane.span, pane.start, pane.start)
        ).fetchall():
            self._merge_into(subject, owner, span, start, packed)

    def _roll_up(self, subject: Subject, owner: int, now: float) -> None:
        """Merge each level's panes into those of the next level that ended by `now` and are not there yet."""
        for fine, coarse in zip(self._levels, self._levels[1:], strict=False):
            query = "SELECT coalesce(max(start) + span, 0) FROM pane WHERE subject = ? AND span = ?"
            (done,) = self._connection.execute(query, (owner, coarse.span)).fetchone()
            query = "SELECT id, start FROM pane WHERE subject = ? AND span = ? AND start >= ? AND start < ?"
            waiting = (owner, fine.span, done, coarse.start_of(now))
            parts: dict[float, list[int]] = {}
            for number, start in self._connection.execute(query, waiting):
                parts.setdefault(coarse.start_of(start), []).append(number)
            for start, numbers in parts.items():
                self._insert(owner, coarse.span, start, self._merged(subject.taps, numbers))

    def _merged(self, taps: Sequence[Tap], panes: Sequence[int], *more: _Packed) -> _Packed:
        """The merge of stored panes and `more`."""
        sketches: dict[Tap, TapSketch] = {}
        marks = ", ".join("?" * len(panes))
        bodies = f"SELECT tap, body FROM sketch WHERE pane IN ({marks}) ORDER BY tap"
        stored = self._connection.execute(bodies, tuple(panes)).fetchall()
        for number, body in (*stored, *(item for one in more for item in one.bodies.items())):
            sketch = compact.unpack(body)
            if (tap := taps[number]) in sketches:
                sketches[tap].merge(sketch)
            else:
                sketches[tap] = sketch
        kept = self._connection.execute(
            f"SELECT names, statistics FROM pane WHERE id IN ({marks})", tuple(panes)
        )
        tables = [*kept.fetchall(), *((one.names, one.statistics) for one in more)]
        return _Packed.of(taps, sketches, _largest(tables, len(taps)))

    def _expire(self, now: float) -> None:
        """Let go what is too old, by whole panes of the next level, so that levels join without a gap."""
        for fine, coarse in zip(self._levels, (*self._levels[1:], self._levels[-1]), strict=True):
            self._forget("span = ? AND start < ?", (fine.span, coarse.start_of(now - fine.keep)))
        last = self._levels[-1]
        # Those that another setting of `timeline.pane_seconds` left.
        self._forget("span > 0 AND start < ?", (last.start_of(now - last.keep),))

    def _make_room(self, needed: int) -> None:
        """Let go the oldest of whichever level takes most, until so many bytes fit into `max_megabytes`."""
        while self.used_bytes() + needed > self._retention.max_bytes:
            with transaction(self._connection):
                query = "SELECT span FROM pane GROUP BY span ORDER BY sum(bytes) DESC LIMIT 1"
                found = self._connection.execute(query).fetchone()
                if found is None:
                    return
                oldest = "SELECT min(start) FROM pane WHERE span = ?"
                self._forget(f"span = ? AND start = ({oldest})", (found[0], found[0]))

    def _forget(self, where: str, values: Sequence[float]) -> None:
        self._connection.execute(f"DELETE FROM pane WHERE {where}", tuple(values))


@dataclass(frozen=True, slots=True)
class _Packed:
    """A pane as it is stored. names: JSON. statistics: float64[taps, names]. bodies: tap's number -> sketch."""

    requests: int
    names: str
    statistics: bytes
    bodies: Mapping[int, bytes]

    @classmethod
    def of(cls, taps: Sequence[Tap], sketches: Mapping[Tap, TapSketch], given: Given) -> _Packed:
        names = list(STATISTICS)
        table = np.full((len(taps), len(names)), np.nan)
        bodies = {}
        for number, tap in enumerate(taps):
            if tap in sketches:
                known = statistics(sketches[tap])
                table[number] = [known.get(name, np.nan) for name in names]
                bodies[number] = compact.pack(sketches[tap])
        for name, values in given.items():
            table[:, names.index(name)] = values
        requests = max((sketch.counts.requests for sketch in sketches.values()), default=0)
        return cls(requests, json.dumps(names), table.astype("<f8").tobytes(), bodies)

    @property
    def bytes(self) -> int:
        return len(self.statistics) + sum(map(len, self.bodies.values()))


def read_column(names: str, stored: bytes, taps: int, name: str) -> npt.NDArray[np.float64]:
    """float64[taps], one of the statistics that a pane keeps; NaN where it was written before there was such a one."""
    columns = _names(names)
    if name not in columns:
        return np.full(taps, np.nan)
    return np.frombuffer(stored, "<f8")[columns.index(name) :: len(columns)].astype(np.float64)


@cache
def _names(stored: str) -> list[str]:
    return list(json.loads(stored))


def _largest(tables: Sequence[tuple[str, bytes]], taps: int) -> dict[str, npt.NDArray[np.float64]]:
    """Of the statistics that no sketch has, the largest in any of the panes."""
    return {
        name: np.fmax.reduce([read_column(names, stored, taps, name) for names, stored in tables])
        for name, one in STATISTICS.items()
        if one.of is None
    }
