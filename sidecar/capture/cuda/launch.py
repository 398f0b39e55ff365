"""How the two kernels are launched for an activation of a given shape and strides."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from triton import cdiv

from sidecar.capture.cuda import fold as fold_kernel
from sidecar.capture.cuda import merge as merge_kernel
from sidecar.capture.layout import HISTOGRAM_SHARE, SLOT_COUNTS, SLOT_SUMS
from sidecar.capture.observe import OpState, as_rows, check_bounds
from sidecar.sketch import PROJECTIONS

_fold: Any = fold_kernel.fold
_merge: Any = merge_kernel.merge

# Smallest normal value of the format itself.
_TINY = {torch.float32: 2.0**-126, torch.bfloat16: 2.0**-126, torch.float16: 2.0**-14}


class Tile(NamedTuple):
    """Lines by channels of one program, eight values a thread."""

    lines: int
    width: int
    warps: int


ALONG_CHANNELS = Tile(4, 256, 4)
"""Neighbouring channels lie side by side in memory."""

ALONG_POSITIONS = Tile(32, 32, 4)
"""Neighbouring positions do, as in a convolution's output."""

ALONE = Tile(1, 4096, 16)
"""A few vectors of one row, as when a language model decodes: one program, one kernel."""

MERGE_TILE = {"GROUPS": 32, "CHANNELS": 32, "PARTS": 128}

_STEPS = 32
_ALONE_POSITIONS = 4


def observe(x: torch.Tensor, channel_dim: int, state: OpState) -> None:
    """Fold x into the bank that is being written. The host waits for nothing.

    Raises ValueError for an activation that would reach beyond the state.
    """
    if x.dtype not in _TINY:
        x = x.float()
    x = as_rows(x, channel_dim)
    check_bounds(x.shape[0], x.shape[2], *state.bounds())
    if x.numel():
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            launch(x, state)


def launch(x: torch.Tensor, state: OpState) -> None:
    """x: [rows, positions, channels] of a type in _TINY, not empty, checked against the state."""
    rows, positions, channels = x.shape
    row_stride, position_stride, channel_stride = x.stride()
    tile = ALONG_POSITIONS if position_stride == 1 != channel_stride else ALONG_CHANNELS
    alone = rows == 1 and positions <= _ALONE_POSITIONS and channels <= ALONE.width
    across = not alone and positions < tile.lines
    if alone:
        tile = ALONE
    chunk = _STEPS * tile.lines
    chunks = 1 if across else cdiv(positions, chunk)
    groups = cdiv(rows, tile.lines) if across else rows * chunks
    blocks = cdiv(channels, tile.width)
    parts = blocks * rows * chunks
    sums = counts = None
    if not alone:
        sums = x.new_empty(2 * groups * channels + SLOT_SUMS * parts, dtype=torch.float64)
        counts = x.new_empty(3 * groups * channels + (SLOT_COUNTS + PROJECTIONS) * parts, dtype=torch.int32)
    held = (state.histogram, state.integers, state.floats, state.projections, state.peaks)
    memory = (x, state.row_slot, state.bank, *held, sums, counts)
    shape = (rows, positions, channels, row_stride, position_stride, channel_stride)
    layout = (state.rows_per_slot, state.histogram.shape[1], state.slots)
    _fold[blocks, groups](
        *memory, *shape, *layout, chunks, chunk, state.near_zero,
        TINY=_TINY[x.dtype], LINES=tile.lines, WIDTH=tile.width, ACROSS=across, ALONE=alone,
        num_warps=tile.warps,
    )  # fmt: skip
    if alone:
        return
    tiles = cdiv(rows * positions, tile.lines) * blocks
    entries = cdiv(rows, state.rows_per_slot)
    programs = cdiv(channels, MERGE_TILE["CHANNELS"]) + 2 * entries + cdiv(tiles, HISTOGRAM_SHARE)
    _merge[programs,](
        *memory, *shape, *layout, chunks, groups, parts,
        LINES=tile.lines, WIDTH=tile.width, num_warps=4, **MERGE_TILE,
    )  # fmt: skip
