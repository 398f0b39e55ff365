"""What two sides that are compared would differ by without drift, wherever that can be known from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sidecar.console.scope import Scope, Seen
from sidecar.drift import Reference
from sidecar.drift.nodrift import NoDrift
from sidecar.drift.values import between_parts
from sidecar.timeline import Kept
from sidecar.timeline.levels import columns
from sidecar.types import Tap


@dataclass(frozen=True, slots=True)
class WithoutDrift:
    """references: the nearest first. panes: of each side, as finely as may be read.

    shared: requests that are in both sides.
    """

    scope: Scope
    references: Sequence[Reference]
    panes: Mapping[str, Sequence[Kept]]
    shared: float

    @classmethod
    def of(cls, scope: Scope, left: Seen, right: Seen, most: int) -> WithoutDrift:
        """most: panes that may be read of each side."""
        if any(pane.span == 0 for pane in (*left.panes, *right.panes)):
            # Inputs of a training step are chosen and not sampled.
            return cls(scope, (), {}, 0.0)
        judged = (scope.judged_by(side.subject) for side in (left, right))
        return cls(
            scope,
            [one for one in (left.recorded, right.recorded, *judged) if one],
            {name: _finely(scope, side, most) for name, side in (("left", left), ("right", right))},
            _shared(left.panes, right.panes),
        )

    def at(self, tap: Tap) -> tuple[NoDrift, str]:
        """And what it was measured on: `reference`, the panes of the `left` or `right` side, or "" if not known."""
        for reference in self.references:
            for known, nodrift in zip(reference.taps, reference.nodrift, strict=True):
                if (known.key, known.channels) == (tap.key, tap.channels) and _is_known(nodrift):
                    return nodrift, "reference"
        for side, panes in self.panes.items():
            nodrift = between_parts([sketch for _, sketch in self.scope.recall.sketches(panes, tap)])
            if _is_known(nodrift):
                return nodrift, side
        return NoDrift.unknown(), ""


def _is_known(nodrift: NoDrift) -> bool:
    return not math.isnan(nodrift.mean[0])


def _finely(scope: Scope, side: Seen, most: int) -> list[Kept]:
    if not side.panes:
        return []
    begin, end = side.panes[0].start, side.panes[-1].start + side.panes[-1].span
    found = scope.recall.panes(side.subject.model, side.subject.version, begin, end)
    return columns(found, begin, end, most)


def _shared(left: Sequence[Kept], right: Sequence[Kept]) -> float:
    """Of a pane that is in the other side in part, as large a part of its requests."""
    both = 0.0
    for ours, other in itertools.product(left, right):
        seconds = min(ours.start + ours.span, other.start + other.span) - max(ours.start, other.start)
        if seconds > 0 and ours.subject == other.subject:
            both += ours.requests * seconds / ours.span
    return both
