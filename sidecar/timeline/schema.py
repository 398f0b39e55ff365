"""The store's SQLite file: its tables, and how it is opened."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from sidecar.errors import SidecarError, SketchError, StoreError
from sidecar.types import Tap

FORMAT = 1
APPLICATION = 0x54415053  # "TAPS"
WAIT_SECONDS = 5.0
_LOG_BYTES = 4 * 2**20

TABLES = """
CREATE TABLE subject (
    id INTEGER PRIMARY KEY, model TEXT NOT NULL, version TEXT NOT NULL, taps TEXT NOT NULL,
    UNIQUE (model, version, taps)
);
CREATE TABLE pane (
    id INTEGER PRIMARY KEY, subject INTEGER NOT NULL REFERENCES subject, span REAL NOT NULL, start REAL NOT NULL,
    requests INTEGER NOT NULL, bytes INTEGER NOT NULL, names TEXT NOT NULL, statistics BLOB NOT NULL,
    UNIQUE (subject, span, start)
);
CREATE TABLE sketch (
    pane INTEGER NOT NULL REFERENCES pane ON DELETE CASCADE, tap INTEGER NOT NULL, body BLOB NOT NULL,
    UNIQUE (pane, tap)
);
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model version with the taps that watch it: whose panes may be merged."""

    model: str
    version: str
    taps: tuple[Tap, ...]

    def taps_text(self) -> str:
        return json.dumps([astuple(tap) for tap in self.taps])

    @classmethod
    def read(cls, model: str, version: str, taps: str) -> Subject:
        return cls(model, version, tuple(Tap(*tap) for tap in json.loads(taps)))


def create_or_open(path: Path, max_bytes: int) -> sqlite3.Connection:
    """A connection that writes, to a file that is made where there is none, readable by its owner only.

    Raises StoreError for a database of something else, SketchError for another format, sqlite3.Error or OSError where
    it cannot be opened.
    """
    path.touch(mode=0o600)
    connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute(f"PRAGMA max_page_count = {max_bytes // page_bytes}")
        with transaction(connection):
            if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                for statement in TABLES.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {FORMAT}")
        _check(connection, path)
    except (SidecarError, sqlite3.Error):
        connection.close()
        raise
    return connection


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads, for a `with` block. Raises StoreError, or SketchError where the file is damaged."""
    try:
        where = f"{path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(where, uri=True, timeout=WAIT_SECONDS, isolation_level=None)
        try:
            # All that is read is of one moment, whatever is written or let go meanwhile.
            connection.execute("BEGIN")
            _check(connection, path)
            yield connection
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        raise StoreError(f"the store {path} cannot be read: {error}") from error
    except sqlite3.DatabaseError as error:
        raise SketchError(str(error)) from error


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of the block or nothing of it is written."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        # A full disk ends a transaction by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _numbers(connection: sqlite3.Connection) -> tuple[int, int]:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return application, version


def _check(connection: sqlite3.Connection, path: Path) -> None:
    application, version = _numbers(connection)
    if application != APPLICATION:
        raise StoreError(f"{path} is no store of panes")
    if version != FORMAT:
        raise SketchError(f"the store {path} has format {version}, supported is {FORMAT}")
