"""The kernel that reads the activation.

A program owns LINES lines of vectors by WIDTH channels and walks along them. Lines are neighbouring
positions of one row or, where rows have few positions, neighbouring rows (ACROSS). Every element of the
tile has accumulators of its own, so nothing is reduced inside the loop. A program that is ALONE with its
activation adds to the state itself and spares the second kernel.

Sums are float32 about the tap's pivot, and float64 as soon as the program has walked. If then a fourth
power sum is not finite (NaN, Inf, or float32 overflow), it walks again in float64, so that the common
tile pays nothing for the rare one.
"""

# mypy: ignore-errors
# triton compiles a language that only looks like typed Python.
from __future__ import annotations

import triton
import triton.language as tl

from sidecar.capture import layout
from sidecar.capture.cuda.cells import (
    BINS,
    PROJECTIONS,
    SLOT_COUNTS,
    add_keys,
    add_projection,
    add_slot,
    calls_cell,
    float_cells,
    integer_cells,
    project,
    widen,
)
from sidecar.capture.cuda.scratch import PACKED, line_out, projection_out, sizes_out, sums_out

_OUTLIER = tl.constexpr(layout.OUTLIER)
_SHARE = tl.constexpr(layout.HISTOGRAM_SHARE)
_INFINITY = tl.constexpr(float("inf"))

# A fourth power sum beyond it is near float32's end.
_LARGEST = tl.constexpr(1e37)

# Loads in flight of one thread.
_UNROLL = tl.constexpr(4)

# Values of a tile in the walk in float64, and in a histogram's: few, for few registers.
_NARROW = tl.constexpr(128)
_KEYS = tl.constexpr(512)


@triton.jit
def _smallest():
    """The smallest float32. A size below it is 0, and `== 0` is translated to more instructions."""
    return tl.full([], 1, tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _add(value, held, pivot, near_zero, TINY: tl.constexpr, s1, s2, s3, s4, low, high, sizes, smalls):
    """One tile into its accumulators, where `held`; that is True in the common loop, and costs nothing.

    sizes: fires + PACKED * outliers. smalls: zeros + PACKED * (zeros and subnormals). Counted in float32,
    exact this far: to compare and add takes two instructions in floats, three in integers.
    """
    delta = tl.where(held, value - pivot, 0.0)
    square = delta * delta
    size = tl.abs(value)
    return (
        s1 + delta,
        s2 + square,
        s3 + square * delta,
        s4 + square * square,
        tl.minimum(low, tl.where(held, value, _INFINITY)),
        tl.maximum(high, tl.where(held, value, -_INFINITY)),
        sizes
        + (held & (size > near_zero)).to(tl.float32)
        + (held & (size >= _OUTLIER)).to(tl.float32) * PACKED,
        smalls
        + (held & (size < _smallest())).to(tl.float32)
        + (held & (size < TINY)).to(tl.float32) * PACKED,
    )


@triton.jit
def _walk_exactly(
    start, stride, slot, length, steps, first_column, channel_stride, pivot, near_zero,
    floats, integers, peaks, sums, counts, group, channels,
    TINY: tl.constexpr, LINES: tl.constexpr, WIDTH: tl.constexpr, ALONE: tl.constexpr,
):  # fmt: skip
    """The whole of a program again in float64, NaN and infinities into their counters.

    Leaves what it found of channels and returns what it found of lines.
    """
    NARROW: tl.constexpr = _NARROW // LINES
    line1 = tl.zeros([LINES], tl.float64)
    line2 = line1
    line3 = line1
    line4 = line1
    minimum = line1 + _INFINITY
    maximum = line1 - _INFINITY
    projected = tl.zeros([LINES, PROJECTIONS], tl.float32)
    zeros = tl.zeros([LINES], tl.int32)
    near_zeros = zeros
    nan = zeros
    pos_inf = zeros
    neg_inf = zeros
    subnormals = zeros
    line_outliers = zeros
    for narrow in range(0, tl.minimum(channels - first_column, WIDTH), NARROW):
        columns = first_column + narrow + tl.arange(0, NARROW)
        inside = columns < channels
        here = start[:, None] + (columns.to(tl.int64) * channel_stride)[None, :]
        s1 = tl.zeros([LINES, NARROW], tl.float64)
        s2 = s1
        s3 = s1
        s4 = s1
        total = s1
        squares = s1
        low = tl.zeros([LINES, NARROW], tl.float32) + _INFINITY
        high = -low
        fired = tl.zeros([LINES, NARROW], tl.int32)
        over = fired
        still = fired
        zero = fired
        small = fired
        nans = fired
        above = fired
        below = fired
        for step in range(0, steps):
            held = (step < length)[:, None] & inside[None, :]
            value = widen(tl.load(here + step * stride, mask=held, other=0.0))
            size = tl.abs(value)
            finite = held & (size < _INFINITY)
            nans += (held & (value != value)).to(tl.int32)
            above += (held & (value == _INFINITY)).to(tl.int32)
            below += (held & (value == -_INFINITY)).to(tl.int32)
            fired += (finite & (size > near_zero)).to(tl.int32)
            still += (finite & (size <= near_zero)).to(tl.int32)
            over += (finite & (size >= _OUTLIER)).to(tl.int32)
            zero += (held & (size == 0.0)).to(tl.int32)
            small += (held & (size < TINY)).to(tl.int32)
            low = tl.where(finite, tl.minimum(low, value), low)
            high = tl.where(finite, tl.maximum(high, value), high)
            wide = tl.where(finite, value, 0.0).to(tl.float64)
            total += wide
            squares += wide * wide
            delta = tl.where(finite, wide - pivot, 0.0)
            square = delta * delta
            s1 += delta
            s2 += square
            s3 += square * delta
            s4 += square * square
        sums_out(floats, sums, group, channels, columns, inside, tl.sum(total, 0), tl.sum(squares, 0), ALONE)
        sizes_out(
            integers, peaks, counts, group, channels, columns, inside,
            slot, low, high, tl.sum(fired + over * PACKED, 0), ALONE,
        )  # fmt: skip
        projected += project(s1.to(tl.float32), columns, LINES, NARROW)
        line1 += tl.sum(s1, 1)
        line2 += tl.sum(s2, 1)
        line3 += tl.sum(s3, 1)
        line4 += tl.sum(s4, 1)
        minimum = tl.minimum(minimum, tl.min(low, 1).to(tl.float64))
        maximum = tl.maximum(maximum, tl.max(high, 1).to(tl.float64))
        zeros += tl.sum(zero, 1)
        near_zeros += tl.sum(still, 1)
        nan += tl.sum(nans, 1)
        pos_inf += tl.sum(above, 1)
        neg_inf += tl.sum(below, 1)
        subnormals += tl.sum(small - zero, 1)
        line_outliers += tl.sum(over, 1)
    return (
        line1, line2, line3, line4, minimum, maximum, projected,
        zeros, near_zeros, nan, pos_inf, neg_inf, subnormals, line_outliers,
    )  # fmt: skip


@triton.jit
def _count_all(x, histogram, positions, channels, position_stride, channel_stride):
    for position in range(0, positions):
        for first in range(0, channels, _KEYS):
            columns = first + tl.arange(0, _KEYS)
            mask = columns < channels
            value = tl.load(x + position * position_stride + columns * channel_stride, mask=mask, other=0.0)
            add_keys(widen(value), mask, histogram, _KEYS)


@triton.jit(do_not_specialize=["rows", "positions", "rows_per_slot", "slots", "chunks", "chunk"])
def fold(
    x, row_slot, bank, histogram, integers, floats, projections, peaks, sums, counts,
    rows, positions, channels, row_stride, position_stride, channel_stride,
    rows_per_slot, tables, slots, chunks, chunk, near_zero,
    TINY: tl.constexpr, LINES: tl.constexpr, WIDTH: tl.constexpr, ACROSS: tl.constexpr, ALONE: tl.constexpr,
):  # fmt: skip
    """x[rows, positions, channels], strides in elements. A row is cut into `chunks` of `chunk` positions.

    Grid (blocks of WIDTH channels, groups). A group is a chunk of a row, ACROSS it is LINES whole rows.
    Scratch is as in `scratch`.
    """
    block = tl.program_id(0)
    group = tl.program_id(1)
    writing = tl.load(bank).to(tl.int64)
    integers += writing * integer_cells(channels, slots)
    floats += writing * float_cells(channels, slots)
    pivot64 = tl.load(floats)
    pivot = pivot64.to(tl.float32)

    line = tl.arange(0, LINES)
    if ACROSS:
        row = group * LINES + line
        first = tl.zeros([LINES], tl.int32)
        stride = tl.full([], 1, tl.int64) * position_stride
        ahead = positions
        steps = positions
        tail = 0
    else:
        row = group // chunks + tl.zeros([LINES], tl.int32)
        first = group % chunks * chunk + line
        stride = tl.full([], LINES, tl.int64) * position_stride
        ahead = tl.minimum(chunk, positions - group % chunks * chunk)
        steps = ahead // LINES
        tail = ahead % LINES
    slot = tl.load(row_slot + row // rows_per_slot, mask=row < rows, other=-1)
    seen = slot >= 0
    observed = tl.max(slot, 0) >= 0
    steps = tl.where(observed, steps, 0)
    tail = tl.where(observed, tail, 0)
    length = tl.where(seen, steps + (line < tail).to(tl.int32), 0)
    columns = block * WIDTH + tl.arange(0, WIDTH)
    inside = columns < channels
    mask = seen[:, None] & inside[None, :]
    start = x + row.to(tl.int64) * row_stride + first.to(tl.int64) * position_stride
    here = start[:, None] + (columns.to(tl.int64) * channel_stride)[None, :]

    s1 = tl.zeros([LINES, WIDTH], tl.float32)
    s2 = s1
    s3 = s1
    s4 = s1
    low = s1 + _INFINITY
    high = s1 - _INFINITY
    sizes = s1
    smalls = s1
    for step in tl.range(0, steps, loop_unroll_factor=_UNROLL):
        value = widen(tl.load(here + step * stride, mask=mask, other=0.0))
        s1, s2, s3, s4, low, high, sizes, smalls = _add(
            value, True, pivot, near_zero, TINY, s1, s2, s3, s4, low, high, sizes, smalls
        )
    if not ACROSS and tail > 0:
        held = (line < tail)[:, None] & inside[None, :]
        value = widen(tl.load(here + steps * stride, mask=mask & held, other=0.0))
        s1, s2, s3, s4, low, high, sizes, smalls = _add(
            value, held, pivot, near_zero, TINY, s1, s2, s3, s4, low, high, sizes, smalls
        )

    # Not before the loop, which has few registers to spare.
    projections += writing * slots * PROJECTIONS
    peaks += writing * channels
    # Lines and channels outside the activation have accumulated `other`.
    s1 = tl.where(mask, s1, 0.0)
    s2 = tl.where(mask, s2, 0.0)
    s3 = tl.where(mask, s3, 0.0)
    s4 = tl.where(mask, s4, 0.0)
    low = tl.where(mask, low, _INFINITY)
    high = tl.where(mask, high, -_INFINITY)
    sizes = tl.where(mask, sizes, 0.0).to(tl.int32)
    smalls = tl.where(mask, smalls, 0.0).to(tl.int32)

    values = length * tl.minimum(channels - block * WIDTH, WIDTH)
    if tl.max(tl.max(tl.where(s4 < _LARGEST, 0, 1), 1), 0) == 0:
        line1 = tl.sum(s1, 1).to(tl.float64)
        line2 = tl.sum(s2, 1).to(tl.float64)
        line3 = tl.sum(s3, 1).to(tl.float64)
        line4 = tl.sum(s4, 1).to(tl.float64)
        minimum = tl.min(low, 1).to(tl.float64)
        maximum = tl.max(high, 1).to(tl.float64)
        zeros = tl.sum(smalls % PACKED, 1)
        near_zeros = values - tl.sum(sizes % PACKED, 1)
        nan = tl.zeros([LINES], tl.int32)
        pos_inf = nan
        neg_inf = nan
        subnormals = tl.sum(smalls // PACKED, 1) - zeros
        outliers = tl.sum(sizes // PACKED, 1)
        sizes_out(
            integers, peaks, counts, group, channels, columns, inside,
            slot, low, high, tl.sum(sizes, 0), ALONE,
        )  # fmt: skip
        vectors = tl.sum(length, 0).to(tl.float64)
        shift = tl.sum(s1, 0).to(tl.float64)
        total = shift + vectors * pivot64
        squares = tl.sum(s2, 0).to(tl.float64) + 2 * pivot64 * shift + vectors * pivot64 * pivot64
        sums_out(floats, sums, group, channels, columns, inside, total, squares, ALONE)
        projected = project(s1, columns, LINES, WIDTH)
    else:
        (
            line1, line2, line3, line4, minimum, maximum, projected,
            zeros, near_zeros, nan, pos_inf, neg_inf, subnormals, outliers,
        ) = _walk_exactly(
            start, stride, slot, length, tl.max(length, 0), block * WIDTH, channel_stride, pivot64, near_zero,
            floats, integers, peaks, sums, counts, group, channels, TINY, LINES, WIDTH, ALONE,
        )  # fmt: skip

    counted = tl.where(block == 0, length, 0)
    if not ACROSS:
        line1, line2, line3, line4 = tl.sum(line1, 0), tl.sum(line2, 0), tl.sum(line3, 0), tl.sum(line4, 0)
        minimum, maximum, projected = tl.min(minimum, 0), tl.max(maximum, 0), tl.sum(projected, 0)
        values, zeros, near_zeros = tl.sum(values, 0), tl.sum(zeros, 0), tl.sum(near_zeros, 0)
        nan, pos_inf, neg_inf = tl.sum(nan, 0), tl.sum(pos_inf, 0), tl.sum(neg_inf, 0)
        subnormals, outliers, counted = tl.sum(subnormals, 0), tl.sum(outliers, 0), tl.sum(counted, 0)
    calls = calls_cell(integers, channels, slots)
    if ALONE:
        if observed:
            add_slot(
                floats, integers, channels, tl.max(slot, 0), line1, line2, line3, line4, minimum, maximum,
                values, zeros, near_zeros, nan, pos_inf, neg_inf, subnormals, outliers, counted,
            )  # fmt: skip
            add_projection(projections, tl.max(slot, 0), projected)
            if tl.load(calls) % _SHARE == 0:
                _count_all(
                    x, histogram + writing * tables * BINS, steps, channels, position_stride, channel_stride
                )
    else:
        part = group
        exists = group < rows * chunks
        if ACROSS:
            part = row
            exists = row < rows
        before = tl.num_programs(1).to(tl.int64) * channels
        part += block * rows * chunks
        parts = tl.num_programs(0) * rows * chunks
        line_out(
            sums + 2 * before, counts + 3 * before, part, exists, parts,
            line1, line2, line3, line4, minimum, maximum,
            values, zeros, near_zeros, nan, pos_inf, neg_inf, subnormals, outliers, counted,
        )  # fmt: skip
        projection_out(counts + 3 * before + SLOT_COUNTS * parts, part, exists, projected, ACROSS)
    if block + group == 0:
        tl.store(calls, tl.load(calls) + 1)
