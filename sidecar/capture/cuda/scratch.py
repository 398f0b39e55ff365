"""What the programs of `fold` leave for `merge`, each where no other writes; one that is ALONE adds it to the state.

A group is what one program takes of the positions, a part what a block of channels has of one chunk of a row:

- sums float64[2, groups, channels]: sum and squares; then float64[SLOT_SUMS, blocks, rows * chunks]
- counts int32[3, groups, channels]: bits of absmax, where it stands as `layout` has it, fires + PACKED * outliers;
  then int32[SLOT_COUNTS, blocks, rows * chunks] and, as bits, float32[blocks, rows * chunks, PROJECTIONS]
"""

# mypy: ignore-errors
# triton compiles a language that only looks like typed Python.
from __future__ import annotations

import triton
import triton.language as tl

from sidecar.capture.cuda.cells import HIGHEST, PROJECTIONS, add_sizes, add_sums

MOST_VALUES = 4095
"""Of a channel in one program: two counts of them share a number."""

PACKED = tl.constexpr(MOST_VALUES + 1)


@triton.jit
def sums_out(floats, sums, group, channels, columns, inside, total, squares, ALONE: tl.constexpr):
    if ALONE:
        add_sums(floats, channels, columns, inside, total, squares)
    else:
        apart = tl.num_programs(1).to(tl.int64) * channels
        at = group.to(tl.int64) * channels + columns
        tl.store(sums + at, total, mask=inside)
        tl.store(sums + apart + at, squares, mask=inside)


@triton.jit
def sizes_out(
    integers, peaks, counts, group, channels, columns, inside, slot, low, high, sizes, ALONE: tl.constexpr
):
    """slot[LINES] and the extremes low, high [LINES, channels]; of equal magnitudes the lowest slot's is taken.

    sizes: fires + PACKED * outliers, of all lines.
    """
    size = tl.maximum(high, -low)
    largest = tl.max(size, 0)
    code = 2 * slot[:, None] + (-low > high).to(tl.int32)
    code = tl.min(tl.where(size == largest[None, :], code, HIGHEST), 0)
    absmax = tl.maximum(largest, 0.0).to(tl.int32, bitcast=True)
    if ALONE:
        add_sizes(integers, peaks, channels, columns, inside, absmax, code, sizes % PACKED, sizes // PACKED)
    else:
        apart = tl.num_programs(1).to(tl.int64) * channels
        at = group.to(tl.int64) * channels + columns
        tl.store(counts + at, absmax, mask=inside)
        tl.store(counts + apart + at, code, mask=inside)
        tl.store(counts + 2 * apart + at, sizes, mask=inside)


@triton.jit
def line_out(
    sums, counts, at, exists, apart, s1, s2, s3, s4, low, high,
    values, zeros, near_zeros, nan, pos_inf, neg_inf, subnormals, outliers, positions,
):  # fmt: skip
    tl.store(sums + at, s1, mask=exists)
    tl.store(sums + apart + at, s2, mask=exists)
    tl.store(sums + 2 * apart + at, s3, mask=exists)
    tl.store(sums + 3 * apart + at, s4, mask=exists)
    tl.store(sums + 4 * apart + at, low, mask=exists)
    tl.store(sums + 5 * apart + at, high, mask=exists)
    tl.store(counts + at, values, mask=exists)
    tl.store(counts + apart + at, zeros, mask=exists)
    tl.store(counts + 2 * apart + at, near_zeros, mask=exists)
    tl.store(counts + 3 * apart + at, nan, mask=exists)
    tl.store(counts + 4 * apart + at, pos_inf, mask=exists)
    tl.store(counts + 5 * apart + at, neg_inf, mask=exists)
    tl.store(counts + 6 * apart + at, subnormals, mask=exists)
    tl.store(counts + 7 * apart + at, outliers, mask=exists)
    tl.store(counts + 8 * apart + at, positions, mask=exists)


@triton.jit
def projection_out(cells, part, exists, projected, ACROSS: tl.constexpr):
    """projected: float32[PROJECTIONS], ACROSS [LINES, PROJECTIONS] with `part` and `exists` of each line."""
    bucket = tl.arange(0, PROJECTIONS)
    if ACROSS:
        cells += part.to(tl.int64)[:, None] * PROJECTIONS + bucket[None, :]
        tl.store(cells, projected.to(tl.int32, bitcast=True), mask=exists[:, None])
    else:
        cells += part.to(tl.int64) * PROJECTIONS + bucket
        tl.store(cells, projected.to(tl.int32, bitcast=True), mask=exists)
