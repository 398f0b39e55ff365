"""Where active drift begins, what moved there, and whether the mix of requests explains it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from sidecar.drift.effects import largest, shifts
from sidecar.drift.groups import Groups, ShareChange, share_changes, with_mix_of
from sidecar.drift.strata import Labels
from sidecar.drift.weighted import Weighted
from sidecar.timeline.strongest import KeepIds, hashed
from sidecar.types import Tap

Kind = Literal["numeric", "mix", "covariate"]

MOST_GROUPS = 3
MOST_REQUESTS = 5
_EXPLAINED = 0.5


@dataclass(frozen=True, slots=True)
class Suspect:
    """A layer as causes see it. passed: its own alarm is on. evidence in nats."""

    tap: Tap
    passed: bool
    evidence: float
    nonfinite: int
    worst_channels: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Cause:
    """Of the drift that is active now, over `drift.window_seconds`.

    kind: numeric, there are NaN or infinite values; mix, shares of classes or routes changed, and with the reference's
        mix no statistic is moved by more than half of the shift; covariate, neither.
    tap: the first in depth order whose evidence passed, or the one with the most where only the model's did.
    statistic, shift: the request statistic that moved most there, in sigmas of the reference's requests; "" and NaN
        if none can be told. remaining: its shift when the window has the reference's mix, NaN without groups.
    channels: (index, signed shift in the channel's sigmas). groups: whose share changed most.
    requests: (id or its hash, distance) of the most extreme requests, in sigmas of their most extreme statistic,
        infinite with NaN or infinite values.
    sentence: all of it, for people.
    """

    kind: Kind
    tap: Tap
    statistic: str
    shift: float
    remaining: float
    channels: tuple[tuple[int, float], ...]
    groups: tuple[ShareChange, ...]
    requests: tuple[tuple[str, float], ...]
    sentence: str


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """Statistics and groups of the same requests, in order.

    broken: bool[n], those with NaN or infinite values. counted: bool[n], those of which shares are taken.
    ids: empty where they are not to be shown.
    """

    rows: Weighted
    broken: npt.NDArray[np.bool_]
    counted: npt.NDArray[np.bool_]
    groups: Groups
    ids: Sequence[str] = ()

    @property
    def mix(self) -> Labels:
        """Groups of those that are counted."""
        return self.groups.deciding[self.counted]


def first_suspect(suspects: Sequence[Suspect], *, model_active: bool) -> Suspect | None:
    """None while nothing is active."""
    if passed := [one for one in suspects if one.passed]:
        return min(passed, key=lambda one: one.tap)
    return max(suspects, key=lambda one: one.evidence) if model_active and suspects else None


def cause(suspect: Suspect, names: Sequence[str], reference: Requests, window: Requests) -> Cause:
    """names: of the statistics, one a column of the rows at the suspect's tap."""
    moved = shifts(reference.rows, window.rows)
    column = largest(moved)
    shift = float(moved[column]) if column >= 0 else math.nan
    changes = share_changes(reference.mix, window.mix)
    left = np.full(len(names), math.nan)
    if column >= 0 and np.any(window.groups.deciding != ""):
        alike = with_mix_of(reference.rows, reference.groups.deciding, window.rows, window.groups.deciding)
        left = shifts(*alike)
    kind: Kind = "covariate"
    if suspect.nonfinite:
        kind = "numeric"
    elif changes and np.max(np.abs(left)) <= _EXPLAINED * abs(shift):
        kind = "mix"
    found = Cause(
        kind=kind,
        tap=suspect.tap,
        statistic=names[column] if column >= 0 else "",
        shift=shift,
        remaining=float(left[column]) if column >= 0 else math.nan,
        channels=suspect.worst_channels,
        groups=changes[:MOST_GROUPS],
        requests=_extreme(reference.rows, window),
        sentence="",
    )
    return _with_sentence(found, suspect.nonfinite, window.groups)


def located(found: Cause, nonfinite: int) -> Cause:
    """Where drift begins and of what kind it is, without what moved. nonfinite: values at its tap."""
    return replace(
        found, statistic="", shift=math.nan, remaining=math.nan, channels=(), groups=(), requests=(),
        sentence="; ".join(_where(found, nonfinite)),
    )  # fmt: skip


def shown(ids: Sequence[str], keep: KeepIds) -> tuple[str, ...]:
    """Ids as the setting lets them be seen; hashed: the first 8 bytes of BLAKE2b, in hexadecimal digits."""
    if keep == "none":
        return ()
    return tuple(ids) if keep == "plain" else tuple(map(hashed, ids))


def _extreme(reference: Weighted, window: Requests) -> tuple[tuple[str, float], ...]:
    if len(window.ids) != len(window.rows):
        return ()
    scale = reference.known().scale()
    distance = np.nan_to_num(np.abs(window.rows.standard(scale).values)).max(axis=1, initial=0.0)
    distance[window.broken] = math.inf
    order = np.argsort(-distance, kind="stable")[:MOST_REQUESTS]
    return tuple((window.ids[row], float(distance[row])) for row in order if distance[row] > 0)


def _where(found: Cause, nonfinite: int) -> list[str]:
    parts = [f"drift begins at layer {found.tap.layer} ({found.tap.site})"]
    return [*parts, f"{nonfinite:,} values are NaN or infinite"] if found.kind == "numeric" else parts


def _with_sentence(found: Cause, nonfinite: int, groups: Groups) -> Cause:
    parts = _where(found, nonfinite)
    if found.statistic:
        parts.append(f"{found.statistic.replace('_', ' ')} of requests moved {found.shift:+.2f} sigmas")
    if found.channels:
        index, moved = found.channels[0]
        parts.append(f"channel {index} moved {moved:+.2f} sigmas")
    if found.groups:
        one = found.groups[0]
        named = "class" if groups.deciding is groups.classes else "route"
        name = f"{named} {one.group}" if one.group else "requests without a name"
        parts.append(f"the share of {name} went from {one.expected:.1%} to {one.seen:.1%}")
    if not math.isnan(found.remaining):
        parts.append(f"{found.remaining:+.2f} sigmas remain with the reference's mix")
    return replace(found, sentence="; ".join(parts))
