"""The observe op on a CPU: one fused pass, compiled by numba, the GIL released, no threads of its own.

A row (one batch entry) is walked in tiles of positions x channels small enough for the first-level
cache. Inside a tile sums are float32 about the tap's pivot, and vectorise; a finished tile is folded
into float64. A tile whose fourth power sum is not finite (NaN, Inf, or float32 overflow) is done again
value by value in float64, so that the common tile pays nothing for the rare one.
"""

# mypy: ignore-errors
# numba compiles a language that only looks like typed Python.
from __future__ import annotations

from typing import Any

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
from sidecar.sketch import BINS

FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2

_TILE_POSITIONS = 16
_FOLD_POSITIONS = 48
_TILE_CHANNELS = 256
# 1e8: fourth powers of a tile's sums stay far from float32's end.
_LARGEST_FAST = np.uint32(0x4CBEBC20)
_REASSOCIATE = {"reassoc", "contract", "nsz", "nnan"}


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
def _ordered(word):
    """Bits of a finite float as an integer that orders as the float does; its own inverse."""
    return np.int32(word ^ np.int32(np.int32(word >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@njit(cache=True, nogil=True)
def _largest(source, step, positions, n):
    """Bits of the largest magnitude in the tile."""
    largest = np.uint32(0)
    for p in range(positions):
        bits = carray(_pointer(source + p * step * 4, np.uint32(0)), (n,))
        for c in range(n):
            largest = max(largest, np.uint32(bits[c] & np.uint32(0x7FFFFFFF)))
    return largest


@njit(cache=True, nogil=True, fastmath=_REASSOCIATE)
def _accumulate(
    source, step, positions, n, pivot, near_zero, smallest_normal, channel_sums, keys, moments, counts
):
    """The tile of float32 at `source` into the channels' sums, the slot's moments and counts, and its keys."""
    width = channel_sums.shape[1]
    sums = carray(_pointer(channel_sums.ctypes.data, np.float32(0)), (n,))
    squares = carray(_pointer(channel_sums.ctypes.data + 4 * width, np.float32(0)), (n,))
    absmax = carray(_pointer(channel_sums.ctypes.data + 8 * width, np.float32(0)), (n,))
    fires = carray(_pointer(channel_sums.ctypes.data + 12 * width, np.float32(0)), (n,))
    outliers = carray(_pointer(channel_sums.ctypes.data + 16 * width, np.float32(0)), (n,))
    total1 = 0.0
    total2 = 0.0
    total3 = 0.0
    total4 = 0.0
    low = np.int32(0x7FFFFFFF)
    high = np.int32(-0x7FFFFFFF)
    # Counted in float32, exact this far: integers would widen to 64 bits and halve the vector.
    zeros = np.float32(0)
    small = np.float32(0)
    fired = np.float32(0)
    over = np.float32(0)
    for p in range(positions):
        x = carray(_pointer(source + p * step * 4, np.float32(0)), (n,))
        bits = carray(_pointer(source + p * step * 4, np.uint32(0)), (n,))
        key = carray(_pointer(keys.ctypes.data + p * n * 2, np.uint16(0)), (n,))
        s1 = np.float32(0)
        s2 = np.float32(0)
        s3 = np.float32(0)
        s4 = np.float32(0)
        for c in range(n):
            value = x[c]
            word = bits[c]
            magnitude = np.uint32(word & np.uint32(0x7FFFFFFF))
            size = abs(value)
            delta = value - pivot
            square = delta * delta
            sums[c] += delta
            squares[c] += square
            absmax[c] = size if size > absmax[c] else absmax[c]
            s1 += delta
            s2 += square
            s3 += square * delta
            s4 += square * square
            ordered = _ordered(np.int32(word))
            low = np.int32(min(low, ordered))
            high = np.int32(max(high, ordered))
            fires_here = np.float32(size > near_zero)
            outlier_here = np.float32(size >= np.float32(6))
            fires[c] += fires_here
            outliers[c] += outlier_here
            fired += fires_here
            over += outlier_here
            zeros += np.float32(magnitude == np.uint32(0))
            small += np.float32(magnitude < smallest_normal)
            # Zero wraps to the last bin, which no finite value has.
            below = np.uint32(np.uint32(magnitude - np.uint32(1)) >> np.uint32(20))
            key[c] = np.uint16(below | np.uint32(np.uint32(word >> np.uint32(20)) & np.uint32(0x800)))
        total1 += s1
        total2 += s2
        total3 += s3
        total4 += s4
    moments[S1] += total1
    moments[S2] += total2
    moments[S3] += total3
    moments[S4] += total4
    extremes = np.empty(2, np.int32)
    extremes[0] = _ordered(low)
    extremes[1] = _ordered(high)
    moments[MINIMUM] = min(moments[MINIMUM], np.float64(extremes.view(np.float32)[0]))
    moments[MAXIMUM] = max(moments[MAXIMUM], np.float64(extremes.view(np.float32)[1]))
    counts[ZEROS] += np.int64(zeros)
    counts[NEAR_ZEROS] += positions * n - np.int64(fired)
    counts[SUBNORMALS] += np.int64(small - zeros)
    counts[OUTLIERS] += np.int64(over)


@njit(cache=True, nogil=True)
def _count_keys(keys, count, histogram):
    i = 0
    while i + 4 <= count:
        histogram[0, keys[i]] += 1
        histogram[1, keys[i + 1]] += 1
        histogram[2, keys[i + 2]] += 1
        histogram[3, keys[i + 3]] += 1
        i += 4
    while i < count:
        histogram[0, keys[i]] += 1
        i += 1


@njit(cache=True, nogil=True)
def _accumulate_exactly(
    source, n, first, pivot, near_zero, smallest_normal,
    sums, squares, absmax, fires, outliers, histogram, counts, slot,
):  # fmt: skip
    """One position's channels, value by value in float64, non-finite values into their counters."""
    x = carray(_pointer(source, np.float32(0)), (n,))
    bits = carray(_pointer(source, np.uint32(0)), (n,))
    for c in range(n):
        magnitude = bits[c] & np.uint32(0x7FFFFFFF)
        if magnitude >= np.uint32(0x7F800000):
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
        sums[first + c] += value
        squares[first + c] += value * value
        absmax[first + c] = max(absmax[first + c], size)
        slot[S1] += delta
        slot[S2] += delta * delta
        slot[S3] += delta * delta * delta
        slot[S4] += delta * delta * delta * delta
        slot[MINIMUM] = min(slot[MINIMUM], value)
        slot[MAXIMUM] = max(slot[MAXIMUM], value)
        if size > near_zero:
            fires[first + c] += 1
        else:
            counts[NEAR_ZEROS] += 1
        if size >= 6.0:
            outliers[first + c] += 1
            counts[OUTLIERS] += 1
        if magnitude == np.uint32(0):
            counts[ZEROS] += 1
            histogram[0, BINS - 1] += 1
        else:
            if magnitude < smallest_normal:
                counts[SUBNORMALS] += 1
            key = ((magnitude - np.uint32(1)) >> np.uint32(20)) | (
                (bits[c] >> np.uint32(31)) << np.uint32(11)
            )
            histogram[0, key] += 1


@njit(cache=True, nogil=True)
def _load(address, kind, offset, step, n, values):
    """`n` elements from `offset` with stride `step`, widened to float32."""
    bits = values.view(np.uint32)
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
def _fold(channel_sums, n, first, held, pivot, sums, squares, absmax, fires, outliers):
    """Tiles of `held` positions into the channels' float64 sums, which stand about zero; empties the tiles."""
    seen = np.float64(held)
    for c in range(n):
        delta = np.float64(channel_sums[0, c])
        sums[first + c] += delta + seen * pivot
        squares[first + c] += np.float64(channel_sums[1, c]) + 2.0 * pivot * delta + seen * pivot * pivot
        absmax[first + c] = max(absmax[first + c], np.float64(channel_sums[2, c]))
        fires[first + c] += np.int64(channel_sums[3, c])
        outliers[first + c] += np.int64(channel_sums[4, c])
        channel_sums[:, c] = 0


@njit(cache=True, nogil=True)
def observe(
    address, kind, rows, positions, channels, row_step, position_step, channel_step,
    row_slot_address, rows_per_slot, bank_address, histogram_address, integers_address, floats_address,
    slots, near_zero,
):  # fmt: skip
    """Fold x[rows, positions, channels] (element strides given) into the bank that is being written.

    Addresses are of live, contiguous memory of the types in `layout`; row r belongs to the slot
    row_slot[r // rows_per_slot], and a negative slot is not observed.
    """
    bank = carray(_pointer(bank_address, np.int32(0)), (1,))[0]
    histogram = carray(_pointer(histogram_address, np.int32(0)), (2, HISTOGRAM_TABLES, BINS))[bank]
    integer_cells = 2 * channels + slots * SLOT_COUNTS + CALL_CELLS
    float_cells = PIVOT_CELLS + 3 * channels + slots * SLOT_SUMS
    integers = carray(_pointer(integers_address, np.int64(0)), (2, integer_cells))[bank]
    floats = carray(_pointer(floats_address, np.float64(0)), (2, float_cells))[bank]
    row_slot = carray(_pointer(row_slot_address, np.int32(0)), ((rows + rows_per_slot - 1) // rows_per_slot,))
    fires = integers[:channels]
    outliers = integers[channels : 2 * channels]
    slot_counts = integers[2 * channels : 2 * channels + slots * SLOT_COUNTS].reshape((slots, SLOT_COUNTS))
    # Layout keeps the pivot a float32 value, so both precisions subtract the same number.
    pivot = floats[0]
    sums = floats[PIVOT_CELLS : PIVOT_CELLS + channels]
    squares = floats[PIVOT_CELLS + channels : PIVOT_CELLS + 2 * channels]
    absmax = floats[PIVOT_CELLS + 2 * channels : PIVOT_CELLS + 3 * channels]
    slot_sums = floats[PIVOT_CELLS + 3 * channels :].reshape((slots, SLOT_SUMS))
    pivot32 = np.float32(pivot)
    near32 = np.float32(near_zero)
    # float16's smallest normal is 2**-14; bfloat16 has float32's exponents.
    smallest_normal = np.uint32(0x38800000) if kind == FLOAT16 else np.uint32(0x00800000)

    width = min(channels, _TILE_CHANNELS)
    channel_sums = np.zeros((5, width), np.float32)
    keys = np.empty(_TILE_POSITIONS * width, np.uint16)
    widened = np.empty((_TILE_POSITIONS, width), np.float32)
    direct = kind == FLOAT32 and channel_step == 1

    for c0 in range(0, channels, width):
        n = min(width, channels - c0)
        held = 0
        for row in range(rows):
            slot = row_slot[row // rows_per_slot]
            if slot < 0:
                continue
            counts = slot_counts[slot]
            moments = slot_sums[slot]
            counts[VALUES] += positions * n
            if c0 == 0:
                counts[POSITIONS] += positions
            for p0 in range(0, positions, _TILE_POSITIONS):
                tile = min(_TILE_POSITIONS, positions - p0)
                offset = row * row_step + p0 * position_step + c0 * channel_step
                source, step = address + offset * 4, position_step
                if not direct:
                    source, step = np.int64(widened.ctypes.data), width
                    for p in range(tile):
                        _load(address, kind, offset + p * position_step, channel_step, n, widened[p])
                if _largest(source, step, tile, n) > _LARGEST_FAST:
                    for p in range(tile):
                        _accumulate_exactly(
                            source + p * step * 4, n, c0, pivot, np.float64(near32), smallest_normal,
                            sums, squares, absmax, fires, outliers, histogram, counts, moments,
                        )  # fmt: skip
                    continue
                _accumulate(
                    source,
                    step,
                    tile,
                    n,
                    pivot32,
                    near32,
                    smallest_normal,
                    channel_sums,
                    keys,
                    moments,
                    counts,
                )
                _count_keys(keys, tile * n, histogram)
                held += tile
                if held >= _FOLD_POSITIONS:
                    _fold(channel_sums, n, c0, held, pivot, sums, squares, absmax, fires, outliers)
                    held = 0
        if held:
            _fold(channel_sums, n, c0, held, pivot, sums, squares, absmax, fires, outliers)
