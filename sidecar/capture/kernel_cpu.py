"""The observe op on a CPU: one fused pass, compiled by numba, the GIL released, no threads of its own.

A row (one batch entry) is walked in tiles of positions x channels, and a tile in columns of 16 channels, which
`vector_block` sums in float32 about the tap's pivot. What does not lie in whole columns, because channels are
strided or their number is odd, is copied into such columns first. Channels' sums are folded into float64 every
few tiles. A column that holds NaN, Inf or a value too large for float32 sums is done again value by value in
float64, so that the common column pays nothing for the rare one.

Zeros are not counted one by one: no finite value but them falls into the last bin of either sign, so what a row adds
there is its zeros.
"""

# mypy: ignore-errors
# numba compiles a language that only looks like typed Python.
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import carray, njit

from sidecar.capture.columns import aligned, copy_columns, pointer
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
from sidecar.capture.vector_block import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FOUND,
    HELD,
    KEY_SHIFT,
    LANES,
    accumulate_bfloat16,
    accumulate_float16,
    accumulate_float32,
)
from sidecar.sketch import BINS, PROJECTIONS, SIGN_HASH

# numba knows compiled code by the text of this file alone: a hash of what else goes into it, which a test holds.
COMPILED_WITH = "a8b479b7a7338c2c"

CALL_FIELDS = 17

# float32 adds up at most this many values of a channel, and then this many of such sums.
_TILE_POSITIONS = 32
_TILES_HELD = 31
# What is held of a tile's channels, or the copy of a tile, shall stay in the first-level cache.
_TILE_CHANNELS = 1024
_COPY_CELLS = 4096
# 1e8: fourth powers of a tile's sums stay far from float32's end.
_LARGEST_FAST = np.uint32(0x4CBEBC20)
_FIRST, _SHIFT, _SECOND = (np.uint32(step) for step in SIGN_HASH)
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
    fires: Any
    outliers: Any
    peaks: Any


class _Held(NamedTuple):
    """What is known of a tile's channels and not yet in the bank.

    channels: float32[columns, HELD, LANES] as `accumulate` leaves them, of so many positions[columns].
    found: what `accumulate` says about the slot. line: float32[1, LANES], a column at one position.
    copy: float32[positions, columns * LANES], what does not lie in whole columns.
    """

    channels: Any
    positions: Any
    found: Any
    line: Any
    copy: Any


@njit(cache=True, nogil=True)
def _sign(channel):
    """As in `sketch.signs`."""
    hashed = np.uint32(np.uint32(channel // LANES + 1) * _FIRST)
    hashed = np.uint32((hashed ^ (hashed >> _SHIFT)) * _SECOND)
    return np.float32(-1) if hashed >> np.uint32(16 + channel % LANES) & np.uint32(1) else np.float32(1)


@njit(cache=True, nogil=True)
def _raise_peak(peaks, channel, magnitude, code):
    """As `layout` has peaks. magnitude: bits of a float32."""
    if magnitude > peaks[channel] >> 32:
        peaks[channel] = np.int64(magnitude) << 32 | np.int64(code)


@njit(cache=True, nogil=True)
def _add_exactly(x, first, code, limits, bank, counts, moments, projection_address):
    """The values of x, which are channels from `first` on, one by one in float64; NaN and infinities by themselves.

    The histogram has counted them all; non-finite ones are taken back.
    """
    bits = x.view(np.uint32)
    pivot = np.float64(limits.pivot)
    projection = carray(pointer(projection_address, np.float32(0)), (PROJECTIONS,))
    for c in range(x.size):
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
        _raise_peak(bank.peaks, first + c, np.int64(magnitude), code | np.int32(value < 0))
        projection[(first + c) % PROJECTIONS] += _sign(first + c) * np.float32(delta)
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
def _add_columns(
    source, kind, step, positions, tile, first, n, code, limits, held, bank, counts, moments, projection
):  # fmt: skip
    """`n` channels in columns at `source`, the first of them column `first` of the tile that begins at channel `tile`.

    step: bytes from position to position. Lanes after the last channel hold zeros, which are taken back from the
    histogram.
    """
    size = 4 if kind == FLOAT32 else 2
    columns = -(-n // LANES)
    # numba would compile a callee once more for a literal.
    one = np.int64(1)
    done = 0
    while done < columns:
        left = n - done * LANES
        arguments = (
            source, step, positions, left, limits.pivot, limits.near_zero, limits.smallest_normal, _LARGEST_FAST,
            held.channels[first + done].ctypes.data, held.found.ctypes.data, bank.histogram.ctypes.data,
            tile + (first + done) * LANES, projection, code,
        )  # fmt: skip
        if kind == FLOAT32:
            summed = accumulate_float32(*arguments)
        elif kind == BFLOAT16:
            summed = accumulate_bfloat16(*arguments)
        else:
            summed = accumulate_float16(*arguments)
        if summed:
            for column in range(first + done, first + done + summed):
                held.positions[column] += positions
            _add_to_slot(held.found, min(summed * LANES, left) * positions, counts, moments)
        done += summed
        source += summed * LANES * size
        if done < columns:
            channel = tile + (first + done) * LANES
            width = min(LANES, n - done * LANES)
            for p in range(positions):
                copy_columns(source + p * step, kind, one, one, one, width, held.line)
                _add_exactly(held.line[0, :width], channel, code, limits, bank, counts, moments, projection)
            done += 1
            source += LANES * size
    bank.histogram[0, _ZERO] -= (columns * LANES - n) * positions


# In line, because the call itself costs as much as a short row.
@njit(cache=True, nogil=True, forceinline=True)
def _add_tile(
    address, kind, position_step, channel_step, positions, tile, n, code, limits, held, bank, counts, moments,
    projection,
):  # fmt: skip
    """x[positions, n], with strides in elements, whose channels begin at `tile`: in place what lies in columns."""
    size = 4 if kind == FLOAT32 else 2
    whole = n // LANES if channel_step == 1 else 0
    read = whole * LANES
    if whole:
        step = position_step * size
        _add_columns(
            address,
            kind,
            step,
            positions,
            tile,
            np.int64(0),
            read,
            code,
            limits,
            held,
            bank,
            counts,
            moments,
            projection,
        )
    if read < n:
        copy_columns(address + read * size, kind, position_step, channel_step, positions, n - read, held.copy)
        source, step = np.int64(held.copy.ctypes.data), held.copy.shape[1] * 4
        _add_columns(
            source,
            np.int64(FLOAT32),
            step,
            positions,
            tile,
            whole,
            n - read,
            code,
            limits,
            held,
            bank,
            counts,
            moments,
            projection,
        )


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
            _raise_peak(bank.peaks, at + lane, np.int64(tallies[column, 2, lane]), tallies[column, 5, lane])
            bank.fires[at + lane] += tallies[column, 3, lane]
            bank.outliers[at + lane] += tallies[column, 4, lane]
    held.channels[:] = 0
    held.positions[:] = 0


@njit(cache=True, nogil=True)
def _zeros(histogram):
    """How many zeros were counted so far."""
    count = np.int32(0)
    for table in range(HISTOGRAM_TABLES):
        count += histogram[table, _NEGATIVE_ZERO] + histogram[table, _ZERO]
    return count


@njit(cache=True, nogil=True)
def observe(address, call_address):
    """Fold an activation into the bank that is being written.

    address: of its first element. call_address: of int64[CALL_FIELDS], so that a call costs Python two numbers: the
    kind, rows, positions and channels of x, element strides of these three, `OpState.addresses`, and the bits of
    near_zero. Addresses are of live, contiguous memory of the types in `layout`; row r belongs to the slot
    row_slot[r // rows_per_slot], and a negative slot is not observed.
    """
    call = carray(pointer(call_address, np.int64(0)), (CALL_FIELDS,))
    kind, rows, positions, channels, row_step, position_step, channel_step = call[:7]
    row_slot_address, rows_per_slot, bank_address, histogram_address, integers_address = call[7:12]
    floats_address, projections_address, peaks_address, slots = call[12:16]
    near_zero = carray(pointer(call_address, np.float64(0)), (CALL_FIELDS,))[16]
    writing = carray(pointer(bank_address, np.int32(0)), (1,))[0]
    histogram = carray(pointer(histogram_address, np.int32(0)), (2, HISTOGRAM_TABLES, BINS))[writing]
    integer_cells = 2 * channels + slots * SLOT_COUNTS + CALL_CELLS
    float_cells = PIVOT_CELLS + 2 * channels + slots * SLOT_SUMS
    integers = carray(pointer(integers_address, np.int64(0)), (2, integer_cells))[writing]
    floats = carray(pointer(floats_address, np.float64(0)), (2, float_cells))[writing]
    projections = projections_address + writing * slots * PROJECTIONS * 4
    peaks = carray(pointer(peaks_address, np.int64(0)), (2, channels))[writing]
    row_slot = carray(pointer(row_slot_address, np.int32(0)), ((rows + rows_per_slot - 1) // rows_per_slot,))
    slot_counts = integers[2 * channels : 2 * channels + slots * SLOT_COUNTS].reshape((slots, SLOT_COUNTS))
    of_channels = floats[PIVOT_CELLS : PIVOT_CELLS + 2 * channels].reshape((2, channels))
    slot_sums = floats[PIVOT_CELLS + 2 * channels :].reshape((slots, SLOT_SUMS))
    bank = _Bank(
        histogram, of_channels[0], of_channels[1],
        integers[:channels], integers[channels : 2 * channels], peaks,
    )  # fmt: skip
    # float16's smallest normal is 2**-14; bfloat16 has float32's exponents.
    smallest_normal = np.uint32(0x38800000) if kind == FLOAT16 else np.uint32(0x00800000)
    limits = _Limits(np.float32(floats[0]), np.float32(near_zero), smallest_normal)

    tall = min(positions, _TILE_POSITIONS)
    width = min(_TILE_CHANNELS, -(-channels // LANES) * LANES)
    if channel_step != 1:
        width = min(width, _COPY_CELLS // tall // LANES * LANES)
    copied = LANES if channel_step == 1 else width
    held = _Held(
        aligned(HELD * width).reshape((width // LANES, HELD, LANES)), np.zeros(width // LANES, np.int32),
        np.empty(FOUND, np.float64), np.empty((1, LANES), np.float32), aligned(tall * copied).reshape((tall, copied)),
    )  # fmt: skip
    element = 4 if kind == FLOAT32 else 2

    zeros = _zeros(histogram)
    for tile in range(0, channels, width):
        n = min(width, channels - tile)
        tiles = 0
        for row in range(rows):
            slot = row_slot[row // rows_per_slot]
            if slot < 0:
                continue
            counts = slot_counts[slot]
            moments = slot_sums[slot]
            projection = projections + slot * PROJECTIONS * 4
            counts[VALUES] += positions * n
            if tile == 0:
                counts[POSITIONS] += positions
            for p in range(0, positions, tall):
                offset = row * row_step + p * position_step + tile * channel_step
                _add_tile(
                    address + offset * element, kind, position_step, channel_step, min(tall, positions - p),
                    tile, n, np.int32(2 * slot), limits, held, bank, counts, moments, projection,
                )  # fmt: skip
                tiles += 1
                if tiles == _TILES_HELD:
                    _fold(held, n, tile, np.float64(limits.pivot), bank)
                    tiles = 0
            zeros_before, zeros = zeros, _zeros(histogram)
            counts[ZEROS] += np.int32(zeros - zeros_before)
        if tiles:
            _fold(held, n, tile, np.float64(limits.pivot), bank)
    for table in range(HISTOGRAM_TABLES):
        histogram[table, _ZERO] += histogram[table, _NEGATIVE_ZERO]
        histogram[table, _NEGATIVE_ZERO] = 0
