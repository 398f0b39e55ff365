"""The observe op on a CPU: one fused pass, compiled by numba, the GIL released, no threads of its own.

A row (one batch entry) is walked in tiles of positions x channels, and a tile in columns of 16 channels, which
`vector_block` sums in float32 about the tap's pivot. Channels' sums are folded into float64 every few tiles. A
column that holds NaN, Inf or a value too large for float32 sums is done again value by value in float64, so
that the common column pays nothing for the rare one.

Zeros are not counted one by one: no finite value but them falls into the last bin of either sign, so what a row adds
there is its zeros.
"""

# mypy: ignore-errors
# numba compiles a language that only looks like typed Python.
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from sidecar.capture.layout import (
    CALL_CELLS,
    HISTOGRAM_TABLES,
    MAXIMUM,
    MINIMUM,
    NAN,
    NEAR_ZEROS,
    NEG_INF,
    OUTLIER,
    OUTLIERS,
    PIVOT_CELLS,
    POS_INF,
    POSITIONS,
    S1,
    S2,
    S3,
    S4,
    SLOT_COUNTS,
    SLOT_SUMS,
    SUBNORMALS,
    VALUES,
    ZEROS,
)
from sidecar.capture.vector_block import FOUND, KEY_SHIFT, LANES, accumulate
from sidecar.sketch import BINS

FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2

# float32 adds up at most this many values of a channel, and then this many of such sums.
_TILE_POSITIONS = 32
_TILES_HELD = 31
# What is held of a tile's channels, or the copy of a tile, shall stay in the first-level cache.
_TILE_CHANNELS = 1024
_COPY_CELLS = 4096
# 1e8: fourth powers of a tile's sums stay far from float32's end.
_LARGEST_FAST = np.uint32(0x4CBEBC20)
_NEGATIVE_ZERO, _ZERO = BINS // 2 - 1, BINS - 1


class _Limits(NamedTuple):
    """What values are compared with. pivot: a float32 value, so both precisions subtract the same number."""

    pivot: Any
    near_zero: Any
    smallest_normal: Any


class _Bank(NamedTuple):
    """The arrays of the bank that is being written."""

    histogram: Any
    sums: Any
    squares: Any
    absmax: Any
    fires: Any
    outliers: Any


class _Held(NamedTuple):
    """Partial results in float32 and by lane, which `vector_block.accumulate` writes.

    positions: how many of each channel are held.
    """

    channels: Any
    positions: Any
    found: Any


@intrinsic
def _pointer(typingctx: Any, address: Any, like: Any) -> Any:
    """Address -> pointer to elements of the type of `like`."""
    signature = types.CPointer(like)(address, like)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.PointerType(context.get_value_type(signature.return_type.dtype)))

    return signature, codegen


@njit(cache=True, nogil=True)
def _widen_half(half):
    """float16 bits -> float32 bits of the same value, subnormals included."""
    sign = (half & 0x8000) << 16
    exponent = (half >> 10) & 0x1F
    mantissa = half & 0x3FF
    if exponent == 0x1F:
        return sign | 0x7F800000 | (mantissa << 13)
    if exponent:
        return sign | ((exponent + 112) << 23) | (mantissa << 13)
    if mantissa == 0:
        return sign
    exponent = 113
    while not mantissa & 0x400:
        mantissa <<= 1
        exponent -= 1
    return sign | (exponent << 23) | ((mantissa & 0x3FF) << 13)


@njit(cache=True, nogil=True)
def _add_exactly(source, n, first, limits, bank, counts, moments):
    """One position's channels, value by value in float64, non-finite values into their counters.

    The histogram has counted them all; non-finite ones are taken back.
    """
    x = carray(_pointer(source, np.float32(0)), (n,))
    bits = carray(_pointer(source, np.uint32(0)), (n,))
    pivot = np.float64(limits.pivot)
    for c in range(n):
        magnitude = bits[c] & np.uint32(0x7FFFFFFF)
        if magnitude >= np.uint32(0x7F800000):
            bank.histogram[0, (bits[c] - np.uint32(1)) >> np.uint32(KEY_SHIFT)] -= 1
            if magnitude > np.uint32(0x7F800000):
                counts[NAN] += 1
            elif bits[c] >> np.uint32(31):
                counts[NEG_INF] += 1
            else:
                counts[POS_INF] += 1
            continue
        value = np.float64(x[c])
        delta = value - pivot
        size = abs(value)
        bank.sums[first + c] += value
        bank.squares[first + c] += value * value
        bank.absmax[first + c] = max(bank.absmax[first + c], size)
        moments[S1] += delta
        moments[S2] += delta * delta
        moments[S3] += delta * delta * delta
        moments[S4] += delta * delta * delta * delta
        moments[MINIMUM] = min(moments[MINIMUM], value)
        moments[MAXIMUM] = max(moments[MAXIMUM], value)
        if size > limits.near_zero:
            bank.fires[first + c] += 1
        else:
            counts[NEAR_ZEROS] += 1
        if size >= OUTLIER:
            bank.outliers[first + c] += 1
            counts[OUTLIERS] += 1
        if magnitude != np.uint32(0) and magnitude < limits.smallest_normal:
            counts[SUBNORMALS] += 1


@njit(cache=True, nogil=True)
def _add_to_slot(found, values, counts, moments):
    """What `accumulate` found in `values` values, into the slot."""
    moments[S1] += found[0]
    moments[S2] += found[1]
    moments[S3] += found[2]
    moments[S4] += found[3]
    moments[MINIMUM] = min(moments[MINIMUM], found[4])
    moments[MAXIMUM] = max(moments[MAXIMUM], found[5])
    counts[NEAR_ZEROS] += values - np.int64(found[6])
    counts[OUTLIERS] += np.int64(found[7])
    counts[SUBNORMALS] += np.int64(found[8])


@njit(cache=True, nogil=True)
def _add_columns(source, step, positions, columns, lanes, tile, first, limits, held, bank, counts, moments):
    """Columns of float32 at `source`, of which the first is column `first` of the tile that begins at channel `tile`.

    lanes: how many of a column's lanes are channels; the rest are zeros.
    """
    done = 0
    while done < columns:
        summed = accumulate(
            source + done * LANES * 4, step, positions, columns - done,
            limits.pivot, limits.near_zero, limits.smallest_normal, _LARGEST_FAST,
            held.channels.ctypes.data + (first + done) * 5 * LANES * 4,
            lanes, held.found.ctypes.data, bank.histogram.ctypes.data,
        )  # fmt: skip
        if summed:
            held.positions[first + done : first + done + summed] += positions
            _add_to_slot(held.found, summed * lanes * positions, counts, moments)
        done += summed
        if done < columns:
            at = tile + (first + done) * LANES
            for p in range(positions):
                _add_exactly(source + done * LANES * 4 + p * step, lanes, at, limits, bank, counts, moments)
            done += 1
    bank.histogram[0, _ZERO] -= (LANES - lanes) * columns * positions


@njit(cache=True, nogil=True)
def _load(address, kind, offset, step, n, values):
    """`n` elements from `offset` with stride `step`, widened to float32; zeros after them."""
    bits = values.view(np.uint32)
    values[n:] = 0
    if kind == FLOAT32:
        source = carray(_pointer(address + offset * 4, np.float32(0)), ((n - 1) * step + 1,))
        for c in range(n):
            values[c] = source[c * step]
        return
    half = carray(_pointer(address + offset * 2, np.uint16(0)), ((n - 1) * step + 1,))
    if kind == BFLOAT16:
        for c in range(n):
            bits[c] = np.uint32(half[c * step]) << np.uint32(16)
    else:
        for c in range(n):
            bits[c] = _widen_half(np.int64(half[c * step]))


@njit(cache=True, nogil=True)
def _fold(held, n, tile, pivot, bank):
    """The tile's held sums into the channels' float64 sums, which stand about zero; nothing is held any more."""
    tallies = held.channels.view(np.int32)
    for column in range((n + LANES - 1) // LANES):
        seen = np.float64(held.positions[column])
        at = tile + column * LANES
        for lane in range(min(LANES, n - column * LANES)):
            delta = np.float64(held.channels[column, 0, lane])
            squares = np.float64(held.channels[column, 1, lane])
            bank.sums[at + lane] += delta + seen * pivot
            bank.squares[at + lane] += squares + 2.0 * pivot * delta + seen * pivot * pivot
            bank.absmax[at + lane] = max(bank.absmax[at + lane], np.float64(held.channels[column, 2, lane]))
            bank.fires[at + lane] += tallies[column, 3, lane]
            bank.outliers[at + lane] += tallies[column, 4, lane]
    held.channels[:] = 0
    held.positions[:] = 0


@njit(cache=True, nogil=True)
def _aligned(cells):
    """Zeros that begin with a cache line."""
    spare = np.zeros(cells + LANES, np.float32)
    skip = (-spare.ctypes.data % 64) // 4
    return spare[skip : skip + cells]


@njit(cache=True, nogil=True)
def _zeros(histogram):
    """How many zeros were counted so far."""
    count = np.int32(0)
    for table in range(HISTOGRAM_TABLES):
        count += histogram[table, _NEGATIVE_ZERO] + histogram[table, _ZERO]
    return count


@njit(cache=True, nogil=True)
def observe(  # noqa: PLR0912 - one nest of loops, which names of its own would only hide
    address, kind, rows, positions, channels, row_step, position_step, channel_step,
    row_slot_address, rows_per_slot, bank_address, histogram_address, integers_address, floats_address,
    slots, near_zero,
):  # fmt: skip
    """Fold x[rows, positions, channels] (element strides given) into the bank that is being written.

    Addresses are of live, contiguous memory of the types in `layout`; row r belongs to the slot
    row_slot[r // rows_per_slot], and a negative slot is not observed.
    """
    writing = carray(_pointer(bank_address, np.int32(0)), (1,))[0]
    histogram = carray(_pointer(histogram_address, np.int32(0)), (2, HISTOGRAM_TABLES, BINS))[writing]
    integer_cells = 2 * channels + slots * SLOT_COUNTS + CALL_CELLS
    float_cells = PIVOT_CELLS + 3 * channels + slots * SLOT_SUMS
    integers = carray(_pointer(integers_address, np.int64(0)), (2, integer_cells))[writing]
    floats = carray(_pointer(floats_address, np.float64(0)), (2, float_cells))[writing]
    row_slot = carray(_pointer(row_slot_address, np.int32(0)), ((rows + rows_per_slot - 1) // rows_per_slot,))
    slot_counts = integers[2 * channels : 2 * channels + slots * SLOT_COUNTS].reshape((slots, SLOT_COUNTS))
    of_channels = floats[PIVOT_CELLS : PIVOT_CELLS + 3 * channels].reshape((3, channels))
    slot_sums = floats[PIVOT_CELLS + 3 * channels :].reshape((slots, SLOT_SUMS))
    bank = _Bank(
        histogram, of_channels[0], of_channels[1], of_channels[2],
        integers[:channels], integers[channels : 2 * channels],
    )  # fmt: skip
    # float16's smallest normal is 2**-14; bfloat16 has float32's exponents.
    smallest_normal = np.uint32(0x38800000) if kind == FLOAT16 else np.uint32(0x00800000)
    limits = _Limits(np.float32(floats[0]), np.float32(near_zero), smallest_normal)

    direct = kind == FLOAT32 and channel_step == 1
    tile_positions = min(positions, _TILE_POSITIONS)
    width = min(_TILE_CHANNELS, (channels + LANES - 1) // LANES * LANES)
    if not direct:
        width = min(width, _COPY_CELLS // tile_positions // LANES * LANES)
    copied = LANES if direct else width
    copy = _aligned(tile_positions * copied).reshape((tile_positions, copied))
    held = _Held(
        _aligned(5 * width).reshape((width // LANES, 5, LANES)),
        np.zeros(width // LANES, np.int32),
        np.empty(FOUND, np.float64),
    )

    for tile in range(0, channels, width):
        n = min(width, channels - tile)
        whole = n // LANES
        rest = n - whole * LANES
        tiles = 0
        for row in range(rows):
            slot = row_slot[row // rows_per_slot]
            if slot < 0:
                continue
            counts = slot_counts[slot]
            moments = slot_sums[slot]
            counts[VALUES] += positions * n
            if tile == 0:
                counts[POSITIONS] += positions
            zeros = _zeros(histogram)
            for p0 in range(0, positions, tile_positions):
                tall = min(tile_positions, positions - p0)
                offset = row * row_step + p0 * position_step + tile * channel_step
                source, step = address + offset * 4, position_step * 4
                if not direct:
                    source, step = np.int64(copy.ctypes.data), copied * 4
                    for p in range(tall):
                        _load(address, kind, offset + p * position_step, channel_step, n, copy[p])
                if whole:
                    _add_columns(
                        source, step, tall, whole, LANES, tile, 0, limits, held, bank, counts, moments
                    )
                if rest:
                    source += whole * LANES * 4
                    if direct:
                        for p in range(tall):
                            _load(address, kind, offset + whole * LANES + p * position_step, 1, rest, copy[p])
                        source, step = np.int64(copy.ctypes.data), copied * 4
                    _add_columns(
                        source, step, tall, 1, rest, tile, whole, limits, held, bank, counts, moments
                    )
                tiles += 1
                if tiles == _TILES_HELD:
                    _fold(held, n, tile, np.float64(limits.pivot), bank)
                    tiles = 0
            counts[ZEROS] += np.int64(np.int32(_zeros(histogram) - zeros))
        if tiles:
            _fold(held, n, tile, np.float64(limits.pivot), bank)
    for table in range(HISTOGRAM_TABLES):
        histogram[table, _ZERO] += histogram[table, _NEGATIVE_ZERO]
        histogram[table, _NEGATIVE_ZERO] = 0
