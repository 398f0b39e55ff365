"""The kernel that adds what `fold` left to the state, and counts the histogram of a share of the tiles.

The histogram stands here because its registers would halve the programs of `fold` that fit on the
device. So a HISTOGRAM_SHARE-th of the activation is read a second time, most likely from the cache.
"""

# mypy: ignore-errors
# triton compiles a language that only looks like typed Python.
from __future__ import annotations

import triton
import triton.language as tl

from sidecar.capture import layout
from sidecar.capture.cuda.cells import (
    BINS,
    HIGHEST,
    PROJECTIONS,
    SLOT_COUNTS,
    add_keys,
    add_projection,
    add_sizes,
    add_slot,
    add_sums,
    calls_cell,
    float_cells,
    integer_cells,
    widen,
)
from sidecar.capture.cuda.scratch import PACKED

_SHARE = tl.constexpr(layout.HISTOGRAM_SHARE)
_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def _picked(cell, at, mine):
    return tl.load(cell + at, mask=mine, other=0)


@triton.jit
def _merge_channels(
    integers, floats, peaks, sums, counts, block, channels, groups,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    columns = block * WIDTH + tl.arange(0, WIDTH)
    inside = columns < channels
    apart = groups.to(tl.int64) * channels
    total = tl.zeros([GROUPS, WIDTH], tl.float64)
    squares = total
    absmax = tl.zeros([GROUPS, WIDTH], tl.int32)
    code = absmax
    fires = absmax
    outliers = absmax
    for first in range(0, groups, GROUPS):
        group = first + tl.arange(0, GROUPS)
        mine = (group < groups)[:, None] & inside[None, :]
        at = group.to(tl.int64)[:, None] * channels + columns[None, :]
        total += _picked(sums, at, mine)
        squares += _picked(sums + apart, at, mine)
        found = _picked(counts, at, mine)
        where = _picked(counts + apart, at, mine)
        code = tl.where((found > absmax) | ((found == absmax) & (where < code)), where, code)
        absmax = tl.maximum(absmax, found)
        sizes = _picked(counts + 2 * apart, at, mine)
        fires += sizes % PACKED
        outliers += sizes // PACKED
    largest = tl.max(absmax, 0)
    add_sums(floats, channels, columns, inside, tl.sum(total, 0), tl.sum(squares, 0))
    add_sizes(
        integers, peaks, channels, columns, inside,
        largest, tl.min(tl.where(absmax == largest[None, :], code, HIGHEST), 0), tl.sum(fires, 0), tl.sum(outliers, 0),
    )  # fmt: skip


@triton.jit
def _slot_of(row_slot, entry, PARTS: tl.constexpr):
    """The slot of an entry of row_slot; -1 where an earlier one has the same."""
    slot = tl.load(row_slot + entry)
    for first in range(0, entry, PARTS):
        at = first + tl.arange(0, PARTS)
        earlier = tl.load(row_slot + at, mask=at < entry, other=-1)
        slot = tl.where(tl.max((earlier == slot).to(tl.int32), 0) > 0, -1, slot)
    return slot


@triton.jit
def _in_slot(row_slot, at, slot, rows, chunks, parts, rows_per_slot):
    row = at % (rows * chunks) // chunks
    return tl.load(row_slot + row // rows_per_slot, mask=at < parts, other=-1) == slot


@triton.jit
def _merge_projection(
    row_slot, projections, found, slot, rows, chunks, parts, rows_per_slot, PARTS: tl.constexpr
):  # fmt: skip
    total = tl.zeros([PARTS, PROJECTIONS], tl.float32)
    for first in range(0, parts, PARTS):
        at = first + tl.arange(0, PARTS)
        mine = _in_slot(row_slot, at, slot, rows, chunks, parts, rows_per_slot)
        cell = at.to(tl.int64)[:, None] * PROJECTIONS + tl.arange(0, PROJECTIONS)[None, :]
        total += _picked(found, cell, mine[:, None]).to(tl.float32, bitcast=True)
    add_projection(projections, slot, tl.sum(total, 0))


@triton.jit
def _merge_slot(
    row_slot, integers, floats, sums, counts, slot, channels, rows, chunks, parts, rows_per_slot,
    PARTS: tl.constexpr,
):  # fmt: skip
    s1 = tl.zeros([PARTS], tl.float64)
    s2 = s1
    s3 = s1
    s4 = s1
    low = s1 + _INFINITY
    high = s1 - _INFINITY
    values = tl.zeros([PARTS], tl.int64)
    zeros = values
    near_zeros = values
    nan = values
    pos_inf = values
    neg_inf = values
    subnormals = values
    outliers = values
    positions = values
    for first in range(0, parts, PARTS):
        at = first + tl.arange(0, PARTS)
        mine = _in_slot(row_slot, at, slot, rows, chunks, parts, rows_per_slot)
        s1 += _picked(sums, at, mine)
        s2 += _picked(sums + parts, at, mine)
        s3 += _picked(sums + 2 * parts, at, mine)
        s4 += _picked(sums + 3 * parts, at, mine)
        low = tl.minimum(low, tl.where(mine, _picked(sums + 4 * parts, at, mine), _INFINITY))
        high = tl.maximum(high, tl.where(mine, _picked(sums + 5 * parts, at, mine), -_INFINITY))
        values += _picked(counts, at, mine)
        zeros += _picked(counts + parts, at, mine)
        near_zeros += _picked(counts + 2 * parts, at, mine)
        nan += _picked(counts + 3 * parts, at, mine)
        pos_inf += _picked(counts + 4 * parts, at, mine)
        neg_inf += _picked(counts + 5 * parts, at, mine)
        subnormals += _picked(counts + 6 * parts, at, mine)
        outliers += _picked(counts + 7 * parts, at, mine)
        positions += _picked(counts + 8 * parts, at, mine)
    add_slot(
        floats, integers, channels, slot,
        tl.sum(s1, 0), tl.sum(s2, 0), tl.sum(s3, 0), tl.sum(s4, 0), tl.min(low, 0), tl.max(high, 0),
        tl.sum(values, 0), tl.sum(zeros, 0), tl.sum(near_zeros, 0),
        tl.sum(nan, 0), tl.sum(pos_inf, 0), tl.sum(neg_inf, 0),
        tl.sum(subnormals, 0), tl.sum(outliers, 0), tl.sum(positions, 0),
    )  # fmt: skip


@triton.jit
def _count_tile(
    x, row_slot, histogram, tile, rows, positions, channels, row_stride, position_stride, channel_stride,
    rows_per_slot, LINES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Tile `tile` of all vectors by all channels, where channel blocks follow one another first."""
    blocks = tl.cdiv(channels, WIDTH)
    columns = tile % blocks * WIDTH + tl.arange(0, WIDTH)
    vector = (tile // blocks).to(tl.int64) * LINES + tl.arange(0, LINES)
    row = vector // positions
    slot = tl.load(row_slot + row // rows_per_slot, mask=row < rows, other=-1)
    mask = (slot >= 0)[:, None] & (columns < channels)[None, :]
    start = x + row * row_stride + vector % positions * position_stride
    at = start[:, None] + (columns.to(tl.int64) * channel_stride)[None, :]
    add_keys(widen(tl.load(at, mask=mask, other=0.0)), mask, histogram, LINES * WIDTH)


@triton.jit(do_not_specialize=["rows", "positions", "rows_per_slot", "slots", "chunks", "groups", "parts"])
def merge(
    x, row_slot, bank, histogram, integers, floats, projections, peaks, sums, counts,
    rows, positions, channels, row_stride, position_stride, channel_stride,
    rows_per_slot, tables, slots, chunks, groups, parts,
    GROUPS: tl.constexpr, CHANNELS: tl.constexpr, PARTS: tl.constexpr, LINES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Arguments as in `fold`, which left `groups` results of every channel and `parts` of lines, as in `scratch`.

    Grid (blocks of CHANNELS + twice the entries of row_slot + HISTOGRAM_SHARE-th of the LINES x WIDTH tiles): each
    program adds to cells that are its own, but for the histogram.
    """
    program = tl.program_id(0)
    blocks = tl.cdiv(channels, CHANNELS)
    entries = tl.cdiv(rows, rows_per_slot)
    writing = tl.load(bank).to(tl.int64)
    integers += writing * integer_cells(channels, slots)
    floats += writing * float_cells(channels, slots)
    before = groups.to(tl.int64) * channels
    if program < blocks:
        peaks += writing * channels
        _merge_channels(integers, floats, peaks, sums, counts, program, channels, groups, GROUPS, CHANNELS)
    elif program < blocks + entries:
        slot = _slot_of(row_slot, program - blocks, PARTS)
        if slot >= 0:
            _merge_slot(
                row_slot, integers, floats, sums + 2 * before, counts + 3 * before,
                slot, channels, rows, chunks, parts, rows_per_slot, PARTS,
            )  # fmt: skip
    elif program < blocks + 2 * entries:
        slot = _slot_of(row_slot, program - blocks - entries, PARTS)
        if slot >= 0:
            _merge_projection(
                row_slot, projections + writing * slots * PROJECTIONS, counts + 3 * before + SLOT_COUNTS * parts,
                slot, rows, chunks, parts, rows_per_slot, PARTS,
            )  # fmt: skip
    else:
        # One tile of each run of _SHARE neighbours, another one at every call and in every run.
        run = program - blocks - 2 * entries
        turn = ((tl.load(calls_cell(integers, channels, slots)) + run) % _SHARE).to(tl.int32)
        _count_tile(
            x, row_slot, histogram + writing * tables * BINS, run * _SHARE + turn, rows, positions, channels,
            row_stride, position_stride, channel_stride, rows_per_slot, LINES, WIDTH,
        )  # fmt: skip
