"""Exports are made beside requests, in the same interpreter."""

from __future__ import annotations

import time

_SECONDS = 0.00005


def give_way() -> None:
    """Let the threads that answer requests have the interpreter: they would wait 5 ms for it, CPython's interval."""
    time.sleep(_SECONDS)
