"""The log: a line an event, for people or for programs, which no client can forge and none can flood."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO

from sidecar.settings import LogSettings
from sidecar.types import Clock

_REQUEST: ContextVar[Mapping[str, str] | None] = ContextVar("request", default=None)

LONGEST = 256
"""Most characters of a field: clients choose ids and names."""


def configure(settings: LogSettings, stream: IO[str]) -> None:
    """Write all that is logged in this process, warnings included, to `stream` and nowhere else."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Json() if settings.format == "json" else Console())
    handler.addFilter(Limited(("sidecar.access", "uvicorn.error"), per_second=10, burst=100))
    # An error and its traceback for the operator, which a client causes as often as it sends what the model cannot do.
    handler.addFilter(Limited(("sidecar.model",), per_second=0.1, burst=10, below=logging.CRITICAL))
    handler.addFilter(_quotes_no_metadata)
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


def _quotes_no_metadata(record: logging.LogRecord) -> bool:
    """grpcio writes down metadata that it cannot decode: a client's secret, perhaps, and as often as it is sent."""
    return not (record.name.startswith("grpc.") and str(record.msg).startswith("Invalid encoding on"))


@contextmanager
def request(fields: Mapping[str, str]) -> Iterator[None]:
    """Lines written inside carry `fields`: request_id, trace_id, model, version, code, as far as they are known."""
    token = _REQUEST.set({name: value[:LONGEST] for name, value in fields.items() if value})
    try:
        yield
    finally:
        _REQUEST.reset(token)


class Fields(logging.Formatter):
    """What a line says, before it is laid out."""

    def fields(self, record: logging.LogRecord) -> dict[str, str | int]:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        found: dict[str, str | int] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(_REQUEST.get() or {}),
        }
        if suppressed := getattr(record, "suppressed", 0):
            found["suppressed"] = suppressed
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return found


class Json(Fields):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.fields(record))


class Console(Fields):
    """`time level logger: message key=value ...`, and a traceback on lines of its own, each after a bar."""

    def format(self, record: logging.LogRecord) -> str:
        found = self.fields(record)
        head = "{time} {level} {logger}: {message}".format(
            **{name: printable(str(found.pop(name))) for name in ("time", "level", "logger", "message")}
        )
        exception = str(found.pop("exception", "")).splitlines()
        pairs = [f"{name}={_word(str(value))}" for name, value in found.items()]
        return "\n".join([" ".join([head, *pairs]), *(f"  | {printable(line)}" for line in exception)])


def printable(text: str) -> str:
    """`text` with all that could end a line or move a terminal's cursor as Python's escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _word(value: str) -> str:
    """As it stands where no reader could take it for anything but one value, else in quotes."""
    return value if re.fullmatch(r"[\w.:/+-]+", value, re.ASCII) else json.dumps(value)


class Limited(logging.Filter):
    """Of `loggers` together lets `per_second` lines through, `burst` at once; the next says how many it `suppressed`.

    below: lines of this level and above all pass. What any client can cause is mostly not an error.
    """

    def __init__(
        self,
        loggers: Collection[str],
        per_second: float,
        burst: int,
        clock: Clock = time.monotonic,
        below: int = logging.ERROR,
    ) -> None:
        super().__init__()
        self._loggers = loggers
        self._below = below
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._left, self._then = float(burst), clock()
        self._suppressed = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name not in self._loggers or record.levelno >= self._below:
            return True
        now = self._clock()
        self._left = min(self._left + (now - self._then) * self._per_second, self._burst)
        self._then = now
        if self._left < 1:
            self._suppressed += 1
            return False
        self._left -= 1
        record.suppressed, self._suppressed = self._suppressed, 0
        return True
