"""Which panes are kept: fine ones for the last minutes, coarser ones, each the merge of finer, for longer."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Level:
    """Panes of `span` seconds, each kept for `keep` seconds after its end."""

    span: float
    keep: float

    def start_of(self, at: float) -> float:
        """Start of the pane that `at` falls into."""
        return math.floor(at / self.span + 1e-9) * self.span


def levels(pane_seconds: float, keep_days: float) -> tuple[Level, ...]:
    """Finest first. With panes of 10 s: those for 30 min, 1 min for 3 h, 10 min for a day, 1 h for `keep_days`.

    All are written as soon as they are complete, so a long range is the merge of few.
    """
    shape = ((1, 180), (6, 180), (60, 144))
    fine = [Level(times * pane_seconds, times * pane_seconds * panes) for times, panes in shape]
    coarse = Level(360 * pane_seconds, keep_days * DAY)
    return (*(Level(one.span, min(one.keep, coarse.keep)) for one in fine), coarse)


class Interval(Protocol):
    @property
    def start(self) -> float: ...

    @property
    def span(self) -> float: ...


Found = TypeVar("Found", bound=Interval)


def cover(panes: Iterable[Found], begin: float, end: float) -> list[Found]:
    """The fewest panes that tell of [begin, end), none overlapping another, oldest first.

    Panes inside the range come before those that reach out of it, and of these the short ones first.
    """
    inside: list[Found] = []
    reaching: list[Found] = []
    for pane in panes:
        if pane.start < end and pane.start + pane.span > begin:
            whole = pane.start >= begin and pane.start + pane.span <= end
            (inside if whole else reaching).append(pane)
    inside.sort(key=lambda pane: -pane.span)
    reaching.sort(key=lambda pane: pane.span)
    return _disjoint((*inside, *reaching))


def columns(panes: Sequence[Found], begin: float, end: float, most: int) -> list[Found]:
    """At most `most` panes that tell of [begin, end) as finely as that allows, oldest first.

    Where even the coarsest are too many, the newest of them.
    """
    touching = [pane for pane in panes if pane.start < end and pane.start + pane.span > begin]
    touching.sort(key=lambda pane: pane.span)
    found: list[Found] = []
    for span in sorted({pane.span for pane in touching}):
        found = _disjoint(pane for pane in touching if pane.span >= span)
        if len(found) <= most:
            break
    return found[-most:]


def _disjoint(panes: Iterable[Found]) -> list[Found]:
    """Each pane that overlaps none before it, in the order of their starts."""
    chosen: list[Found] = []
    starts: list[float] = []
    for pane in panes:
        place = bisect_left(starts, pane.start)
        after = not place or chosen[place - 1].start + chosen[place - 1].span <= pane.start
        before = place == len(starts) or pane.start + pane.span <= starts[place]
        if after and before:
            chosen.insert(place, pane)
            starts.insert(place, pane.start)
    return chosen
