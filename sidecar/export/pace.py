"""Exports are made beside requests, in the same interpreter."""

from __future__ import annotations

import time

_STRETCH_SECONDS = 0.0003
_PAUSE_SECONDS = 0.00005


class Pace:
    """Called between steps, lets the threads that answer requests have the interpreter three times a millisecond.

    They would wait 5 ms for it, CPython's own interval.
    """

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def __call__(self) -> None:
        if time.perf_counter() - self._since > _STRETCH_SECONDS:
            time.sleep(_PAUSE_SECONDS)
            self._since = time.perf_counter()
