"""Calls whose message is not whole: the core keeps what came, up to the largest message, and counts it nowhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

LOOK_SECONDS = 1.0
"""How often they are looked at."""

SLOW_LOOKS = 3
"""A message that is not whole at so many looks in turn is slow; most are whole before the first."""

LAST_LOOK = 60
"""At so many it has had its time."""

BYTES = 2**30
"""What slow messages may take together, each of them being counted as the largest that is allowed."""


class Call(Protocol):
    """looks: how often its message was not whole; below 0 once it is, and where none is awaited."""

    looks: int


One = TypeVar("One", bound=Call)


def overdue(calls: Iterable[One], largest: int) -> list[One]:
    """Look at the calls: those to end, because their time is over or, the slowest first, because so many are slow.

    largest: bytes of the largest message. To be called by whoever tells the calls that their messages have come, so
    that a message which waits to be told of does not count as slow.
    """
    slow = []
    for call in calls:
        if call.looks >= 0:
            call.looks += 1
            if call.looks >= SLOW_LOOKS:
                slow.append(call)
    slow.sort(key=lambda call: call.looks)
    allowed = max(BYTES // largest, 1)
    return [call for place, call in enumerate(slow) if place >= allowed or call.looks >= LAST_LOOK]
