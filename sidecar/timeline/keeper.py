"""The thread that writes panes to the store, and what becomes of them when the store fails."""

from __future__ import annotations

import logging
import queue
import shutil
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from sidecar.errors import SketchError, StoreError
from sidecar.timeline.schema import Subject
from sidecar.timeline.store import Given, Retention, Store
from sidecar.timeline.timeline import Pane
from sidecar.types import Clock

_log = logging.getLogger(__name__)

WAITING = 8
"""Closed panes that wait to be written; more are dropped and counted."""
KEPT_ASIDE = 2
"""Stores that were set aside and stay beside the new one; older ones are removed."""
BACK_SECONDS = 3600.0
"""A pane older than the newest by more than this says that the clock was wrong then or is wrong now."""

LEAST_FREE = 8 * 2**20
"""With fewer bytes free on the disk whatever fails is blamed on it."""


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """path: "" where nothing is kept. detail: what is wrong with it, "" if nothing.

    bytes: what its panes take. panes: written so far. dropped: not written. set_aside: stores that could not go on.
    seconds: CPU time of writing so far.
    """

    path: str
    detail: str = ""
    bytes: int = 0
    panes: int = 0
    dropped: int = 0
    set_aside: int = 0
    seconds: float = 0.0


class Keeper:
    """Writes the panes it is given to a `Store`, in the background, from `start` to `stop`.

    It fails open: a store that cannot be used is renamed, said so and begun anew; while the disk is full, panes are
    dropped and counted, and what is there stays.
    """

    def __init__(self, path: Path, retention: Retention, clock: Clock) -> None:
        self.path = path
        self._retention = retention
        self._clock = clock
        self._queue: queue.Queue[tuple[Subject, Pane, Given] | None] = queue.Queue(WAITING)
        self._store: Store | None = None
        self._damage = ""
        self._detail = ""
        self._bytes = self._panes = self._dropped = self._set_aside = 0
        self._seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="sidecar-store", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Write what waits, and end. A thread that is stuck is left behind; it is a daemon."""
        if not self._thread.is_alive():
            return
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def put(self, subject: Subject, pane: Pane, given: Given) -> None:
        """Never waits and never raises; `pane` and `given` must not change any more."""
        try:
            self._queue.put_nowait((subject, pane, given))
        except queue.Full:
            self._dropped += 1

    def report(self, damage: str) -> None:
        """A reader found the store damaged: it is set aside before the next pane is written."""
        self._damage = damage

    def status(self) -> StoreStatus:
        return StoreStatus(
            str(self.path),
            self._detail,
            self._bytes,
            self._panes,
            self._dropped,
            self._set_aside,
            self._seconds,
        )

    def _run(self) -> None:
        while (waiting := self._queue.get()) is not None:
            self._keep(*waiting)
            self._seconds = time.thread_time()
        if self._store:
            self._store.close()

    def _keep(self, subject: Subject, pane: Pane, given: Given) -> None:
        try:
            if not self._write(subject, pane, given):
                self._write(subject, pane, given, anew=True)
        except (sqlite3.Error, OSError, StoreError, SketchError) as error:
            self._dropped += 1
            self._say(f"panes are not kept: {error}")
            self._close()

    def _write(self, subject: Subject, pane: Pane, given: Given, *, anew: bool = False) -> bool:
        """False where the store was set aside and the pane should go into the new one."""
        try:
            if self._damage:
                raise SketchError(self._damage)
            store = self._store = self._store or Store(self.path, self._retention)
            if pane.span and (jump := self._jump(store, pane)):
                store = self._begun_anew(jump)
            store.write(subject, pane, given, self._clock())
        except (sqlite3.DatabaseError, SketchError) as error:
            if anew or _passes(error, self.path.parent) or not self.path.is_file():
                raise
            self._put_aside(str(error))
            return False
        self._panes += 1
        self._bytes = store.used_bytes()
        if self._detail:
            _log.info("panes are kept again in %s", self.path)
            self._detail = ""
        return True

    def _jump(self, store: Store, pane: Pane) -> str:
        newest = store.newest()
        if newest is not None and pane.start < newest - BACK_SECONDS:
            return f"its newest pane lies {newest - pane.start:.0f} s in the future"
        if newest is not None and pane.start > newest + self._retention.levels[-1].keep:
            # As likely an idle week as a wrong clock; either way panes go when they are too old, and steps stay.
            _log.warning(
                "%s: nothing was kept for %.0f s, and all panes are too old", self.path, pane.start - newest
            )
        return ""

    def _begun_anew(self, why: str) -> Store:
        """A store with the steps of the one that is set aside, because no clock is behind them."""
        aside = self._put_aside(why)
        store = self._store = Store(self.path, self._retention)
        try:
            store.copy_steps(aside)
        except sqlite3.Error as error:
            _log.error("training steps stay in %s: %s", aside.name, error)
        return store

    def _put_aside(self, why: str) -> Path:
        """Rename the file, so that a new one can be begun; its new name. Raises OSError."""
        self._close()
        self._damage = ""
        aside = self.path.with_name(f"{self.path.name}.{self._clock():.0f}.aside")
        for suffix in ("", "-wal", "-shm"):
            file = self.path.with_name(self.path.name + suffix)
            if file.exists():
                file.rename(aside.with_name(aside.name + suffix))
        older = sorted(
            self.path.parent.glob(f"{self.path.name}.*.aside"), key=lambda file: file.stat().st_mtime
        )
        for gone in older[:-KEPT_ASIDE]:
            for suffix in ("", "-wal", "-shm"):
                gone.with_name(gone.name + suffix).unlink(missing_ok=True)
        self._set_aside += 1
        _log.error("the store %s was set aside as %s and begun anew: %s", self.path, aside.name, why)
        return aside

    def _close(self) -> None:
        if self._store:
            self._store.close()
            self._store = None

    def _say(self, detail: str) -> None:
        if not self._detail:
            _log.error("%s: %s", self.path, detail)
        self._detail = detail


def _passes(error: Exception, folder: Path) -> bool:
    """Whether the store itself is sound: there is no room, or somebody else writes."""
    code = getattr(error, "sqlite_errorcode", None)
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY) or shutil.disk_usage(folder).free < LEAST_FREE
