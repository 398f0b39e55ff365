"""Adding to the cells of `layout` from inside a kernel."""

# mypy: ignore-errors
# triton compiles a language that only looks like typed Python.
from __future__ import annotations

import triton
import triton.language as tl

from sidecar import sketch
from sidecar.capture import layout

PIVOT_CELLS = tl.constexpr(layout.PIVOT_CELLS)
CALL_CELLS = tl.constexpr(layout.CALL_CELLS)
SLOT_COUNTS = tl.constexpr(layout.SLOT_COUNTS)
SLOT_SUMS = tl.constexpr(layout.SLOT_SUMS)
BINS = tl.constexpr(sketch.BINS)
PROJECTIONS = tl.constexpr(sketch.PROJECTIONS)
HIGHEST = tl.constexpr(2**31 - 1)

_SPREAD = tl.constexpr(sketch.SIGN_HASH[0])
_FOLD = tl.constexpr(sketch.SIGN_HASH[1])
_MIX = tl.constexpr(sketch.SIGN_HASH[2])

# Buckets from here on, about 2**-20 < |x| <= 2**12, are counted in the program, others one by one in the state.
_FIRST = tl.constexpr((127 - 20) * 8)
_WINDOW = tl.constexpr(32 * 8)


@triton.jit
def widen(value):
    """float32 of the same value. By its bits where that is exact, which is as fast and keeps subnormals."""
    if value.dtype == tl.bfloat16:
        return (value.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return value.to(tl.float32)


@triton.jit
def integer_cells(channels, slots):
    return 2 * channels + slots * SLOT_COUNTS + CALL_CELLS


@triton.jit
def float_cells(channels, slots):
    return PIVOT_CELLS + 2 * channels + slots * SLOT_SUMS


@triton.jit
def calls_cell(integers, channels, slots):
    return integers + 2 * channels + slots * SLOT_COUNTS


@triton.jit
def project(sums, columns, LINES: tl.constexpr, WIDTH: tl.constexpr):
    """Sums [LINES, WIDTH] of the channels `columns` -> [LINES, PROJECTIONS], as `sketch.project` has them.

    The first channel is one of bucket 0, or all lie in one run of WIDTH buckets.
    """
    hashed = (columns // 16 + 1).to(tl.uint32) * _SPREAD
    hashed = (hashed ^ (hashed >> _FOLD)) * _MIX
    negative = (hashed >> (16 + columns % 16).to(tl.uint32)) & 1
    signed = tl.where((negative != 0)[None, :], -sums, sums)
    if WIDTH >= PROJECTIONS:
        projected = tl.sum(tl.reshape(signed, [LINES, WIDTH // PROJECTIONS, PROJECTIONS]), 1)
    else:
        in_each = tl.broadcast_to(signed[:, None, :], [LINES, PROJECTIONS // WIDTH, WIDTH])
        run = tl.min(columns, 0) % PROJECTIONS // WIDTH
        own = tl.arange(0, PROJECTIONS) // WIDTH == run
        projected = tl.where(own[None, :], tl.reshape(in_each, [LINES, PROJECTIONS]), 0.0)
    return projected


@triton.jit
def add_projection(projections, slot, found):
    """found[PROJECTIONS] into one slot, which nobody else writes."""
    cell = projections + slot * PROJECTIONS + tl.arange(0, PROJECTIONS)
    tl.store(cell, tl.load(cell) + found)


@triton.jit
def add_sums(floats, channels, at, mask, total, squares):
    """Into the channels `at`, which nobody else writes."""
    cell = floats + PIVOT_CELLS + at
    tl.store(cell, tl.load(cell, mask=mask) + total, mask=mask)
    cell += channels
    tl.store(cell, tl.load(cell, mask=mask) + squares, mask=mask)


@triton.jit
def add_sizes(integers, peaks, channels, at, mask, absmax, code, fires, outliers):
    """The same. absmax: bits of a float32."""
    cell = peaks + at
    peak = tl.load(cell, mask=mask, other=0)
    tl.store(cell, (absmax.to(tl.int64) << 32) | code, mask=mask & (absmax > (peak >> 32)))
    cell = integers + at
    tl.store(cell, tl.load(cell, mask=mask) + fires, mask=mask)
    cell += channels
    tl.store(cell, tl.load(cell, mask=mask) + outliers, mask=mask)


@triton.jit
def add_slot(
    floats, integers, channels, slot, s1, s2, s3, s4, low, high,
    values, zeros, near_zeros, nan, pos_inf, neg_inf, subnormals, outliers, positions,
):  # fmt: skip
    """Scalars into one slot, which nobody else writes."""
    cell = floats + PIVOT_CELLS + 2 * channels + slot * SLOT_SUMS
    tl.store(cell, tl.load(cell) + s1)
    tl.store(cell + 1, tl.load(cell + 1) + s2)
    tl.store(cell + 2, tl.load(cell + 2) + s3)
    tl.store(cell + 3, tl.load(cell + 3) + s4)
    tl.store(cell + 4, tl.minimum(tl.load(cell + 4), low))
    tl.store(cell + 5, tl.maximum(tl.load(cell + 5), high))
    cell = integers + 2 * channels + slot * SLOT_COUNTS
    tl.store(cell, tl.load(cell) + values)
    tl.store(cell + 1, tl.load(cell + 1) + zeros)
    tl.store(cell + 2, tl.load(cell + 2) + near_zeros)
    tl.store(cell + 3, tl.load(cell + 3) + nan)
    tl.store(cell + 4, tl.load(cell + 4) + pos_inf)
    tl.store(cell + 5, tl.load(cell + 5) + neg_inf)
    tl.store(cell + 6, tl.load(cell + 6) + subnormals)
    tl.store(cell + 7, tl.load(cell + 7) + outliers)
    tl.store(cell + 8, tl.load(cell + 8) + positions)


@triton.jit
def add_keys(value, mask, histogram, SIZE: tl.constexpr):
    """The float32 tile of SIZE values into the histogram, zeros into its last bin, which no finite value has."""
    bits = tl.reshape(value, [SIZE]).to(tl.int32, bitcast=True)
    mask = tl.reshape(mask, [SIZE])
    magnitude = bits & 0x7FFFFFFF
    mask &= magnitude < 0x7F800000
    key = (magnitude - 1) >> 20
    zero = magnitude == 0
    # Cell 0 of either half of the window counts zeros.
    cell = tl.where(zero, 0, key - _FIRST)
    near = zero | ((cell > 0) & (cell < _WINDOW))
    negative = bits < 0
    found = tl.histogram(
        tl.where(near, cell, 0) + tl.where(negative, _WINDOW, 0), 2 * _WINDOW, mask=mask & near
    )
    cell = tl.arange(0, 2 * _WINDOW)
    bins = _FIRST + cell % _WINDOW + cell // _WINDOW * (BINS // 2)
    bins = tl.where(cell % _WINDOW == 0, BINS - 1, bins)
    tl.atomic_add(histogram + bins, found, mask=found > 0, sem="relaxed")
    far = mask & ~near
    if tl.max(far.to(tl.int32), 0) > 0:
        tl.atomic_add(histogram + key + tl.where(negative, BINS // 2, 0), 1, mask=far, sem="relaxed")
