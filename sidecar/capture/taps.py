"""Which tap points are watched, and what each is as a tap: its layer, its channels, its rows of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from sidecar.errors import ConfigError, ModelError
from sidecar.types import Shapes, Tap, TapPoint

ONE_REQUEST = 2**31 - 1
"""`rows_per_slot` of a model without a batch dimension: all rows belong to the first slot."""

NO_DIMENSION, UNKNOWN_DIMENSION = 0, -1
"""`length_dim` of an activation of one size, and of one where it cannot be told which positions are padding."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A tap and how its activation lies: the dimension of its channels, its rows for one row of the batch, and the
    dimension that is as long as the request, where requests are padded.
    """

    tap: Tap
    channel_dim: int
    rows_per_slot: int
    length_dim: int = NO_DIMENSION


def choose(points: Sequence[TapPoint], globs: Sequence[str]) -> list[TapPoint]:
    """The points of which a name matches a glob, in the order of `points`; without globs those tapped by default.

    Raises ConfigError for a glob that matches nothing.
    """
    if not globs:
        return [point for point in points if point.default]
    names = [name for point in points for name in (point.name, point.node) if name]
    if missing := [glob for glob in globs if not any(fnmatchcase(name, glob) for name in names)]:
        near = list(dict.fromkeys(name for glob in missing for name in get_close_matches(glob, names)))
        hint = f"; near are {', '.join(near)}" if near else ""
        raise ConfigError(
            f"taps {missing} match nothing{hint}; without `taps`, `sidecar taps` lists all there is"
        )
    return [
        point
        for point in points
        if any(fnmatchcase(name, glob) for glob in globs for name in (point.name, point.node))
    ]


def plan(
    points: Sequence[TapPoint], small: Shapes, large: Shapes, *, batched: bool, longer: Shapes | None = None
) -> tuple[Placement, ...]:
    """Taps at `points`, with layers in depth order.

    small, large: shapes of the activations for batches of 2 and of 3. longer: as small, of inputs that are longer by
    one, where requests are padded. A point inside a block has the block's number
    as its layer; others count on from their neighbours.
    Raises ModelError when there are no points, for one that did not run or gave no floating-point tensor, and for
    one whose rows cannot be told apart by request.
    """
    if not points:
        raise ModelError(
            "no blocks or stages were found: name what to tap in `taps`; `sidecar taps` lists it"
        )
    if silent := sorted({point.name for point in points} - set(small)):
        raise ModelError(f"taps {silent} gave no activation in a trial run")
    placements: list[Placement] = []
    layer = -1
    for point in sorted(points, key=lambda point: list(small).index(point.name)):
        layer = layer + 1 if point.block is None else point.block
        taken = {(placed.tap.layer, placed.tap.site) for placed in placements}
        site = point.name if (layer, point.site) in taken else point.site
        shape = small[point.name]
        tap = Tap(layer, site, point.name, channel_count(point, shape))
        rows = rows_per_slot(point.name, small, large, batched=batched)
        channels = channel_dimension(point, shape)
        length = length_dimension(shape, longer[point.name], channels) if longer else NO_DIMENSION
        placements.append(Placement(tap, channels, rows, length))
    return tuple(sorted(placements, key=lambda placed: placed.tap.layer))


def channel_dimension(point: TapPoint, shape: tuple[int, ...]) -> int:
    """What the point says; else dimension 1 of images, which have four, and the last of everything else."""
    if point.channel_dim is None or not -len(shape) <= point.channel_dim < len(shape):
        return 1 if len(shape) == 4 else -1
    return point.channel_dim


def channel_count(point: TapPoint, shape: tuple[int, ...]) -> int:
    """One where there is only the batch dimension."""
    return shape[channel_dimension(point, shape)] if len(shape) > 1 else 1


def length_dimension(small: tuple[int, ...], longer: tuple[int, ...], channel_dim: int) -> int:
    """Where an activation grew by one when its inputs did: the positions of each row, which tell what is padding."""
    if small == longer:
        return NO_DIMENSION
    grown = [dim for dim, (before, after) in enumerate(zip(small, longer, strict=False)) if before != after]
    known = len(small) == len(longer) and len(grown) == 1 and longer[grown[0]] == small[grown[0]] + 1
    if not known or grown[0] in (0, range(len(small))[channel_dim]):
        return UNKNOWN_DIMENSION
    return grown[0]


def rows_per_slot(name: str, small: Shapes, large: Shapes, *, batched: bool) -> int:
    """Rows of the activation for one row of the batch, from trial runs with batches of 2 and of 3.

    Raises ModelError when dimension 0 does not grow with the batch: its rows belong to no request.
    """
    if not batched:
        return ONE_REQUEST
    step = large[name][0] - small[name][0]
    if step < 1 or small[name][0] != 2 * step:
        raise ModelError(
            f"dimension 0 of {name} is {small[name][0]} for a batch of 2 and {large[name][0]} for 3: "
            "it is not the batch, so its rows cannot be told apart by request"
        )
    return step
