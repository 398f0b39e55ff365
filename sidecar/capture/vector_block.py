"""The inner loop of the CPU kernel, written in vectors of 16 channels.

A column is 16 neighbouring channels over the positions of a tile. All that is summed about it stays in
registers while the loop runs down the positions; a loop vectoriser runs along the channels instead, and so
loads and stores each channel's sums for every value. Columns follow one another through memory, and the cache
line of each position is fetched some columns ahead, because hardware does not see a stream in strides of pages.

The vectors are LLVM's own, so a processor of any width compiles them: one register of AVX-512, two of AVX2,
four of NEON. numba does not see a change here: `COMPILED_WITH` of the files that call it has to
follow.
"""

# mypy: ignore-errors
# llvmlite builds code, and gives no types for it.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sidecar.capture.layout import HISTOGRAM_TABLES, OUTLIER
from sidecar.sketch import BINS, PROJECTIONS, SIGN_HASH

FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2
LANES = 16
FOUND = 9
HELD = 6
"""Vectors of 4-byte cells that are held of a column: those of `_OF_CHANNELS`, and where absmax stands."""
KEY_SHIFT = 20
"""The top 12 bits of a float32, less one so that upper edges are included, name its bin."""

# Columns whose power sums are added up in float32 before they go to float64.
_GROUP = 16
# Bytes from a value to the one to fetch. Not into the first-level cache, where positions a page apart share a set.
_AHEAD = 4 * 64
_TO_SECOND_LEVEL = 2

_INT16, _INT32, _INT64 = (ir.IntType(bits) for bits in (16, 32, 64))
_HALVES, _INTS, _FLOATS, _DOUBLES = (
    ir.VectorType(kind, LANES) for kind in (_INT16, _INT32, ir.FloatType(), ir.DoubleType())
)

_ZERO, _LOWEST, _HIGHEST = (ir.Constant(_FLOATS, [value] * LANES) for value in (0.0, np.inf, -np.inf))
_NONE = ir.Constant(_INTS, [0] * LANES)
_ZEROS = ir.Constant(_DOUBLES, [0.0] * LANES)
_EMPTY = {
    "sum": _ZERO,
    "squares": _ZERO,
    "absmax": _NONE,
    "fires": _NONE,
    "outliers": _NONE,
    "cubes": _ZERO,
    "fourths": _ZERO,
    "minimum": _LOWEST,
    "maximum": _HIGHEST,
    "subnormals": _NONE,
}
_OF_CHANNELS = ("sum", "squares", "absmax", "fires", "outliers")
_OF_SLOT = ("sum", "squares", "cubes", "fourths", "minimum", "maximum", "fires", "outliers", "subnormals")
_POWERS = _OF_SLOT[:4]


class _Vectors:
    """What the loop says often, in fewer words."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def splat(self, value: Any, kind: ir.VectorType = _INTS) -> ir.Value:
        if not isinstance(value, ir.Value):
            return ir.Constant(kind, [value] * LANES)
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(undefined, value, _INT32(0))
        return self.builder.shuffle_vector(first, undefined, _NONE)

    def call(self, name: str, *operands: ir.Value) -> ir.Value:
        kind = operands[0].type
        suffix = f"v{LANES}{'f' if kind == _FLOATS else 'i'}32"
        function = ir.FunctionType(kind, [kind] * len(operands))
        function = cgutils.get_or_insert_function(self.builder.module, function, f"llvm.{name}.{suffix}")
        return self.builder.call(function, operands)

    def prefetch(self, address: ir.Value) -> None:
        pointer = ir.PointerType(ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [pointer, _INT32, _INT32, _INT32])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        read, cached_data = _INT32(0), _INT32(1)
        level = _INT32(_TO_SECOND_LEVEL)
        self.builder.call(function, [self.builder.inttoptr(address, pointer), read, level, cached_data])

    def load(self, address: ir.Value, kind: ir.Type) -> ir.Value:
        return self.builder.load(self.builder.inttoptr(address, ir.PointerType(kind)), align=4)

    def widen(self, address: ir.Value, kind: int) -> ir.Value:
        """LANES neighbouring elements as bits of float32."""
        if kind == FLOAT32:
            return self.load(address, _INTS)
        b = self.builder
        halves = b.load(b.inttoptr(address, ir.PointerType(_HALVES)), align=2)
        bits = b.zext(halves, _INTS)
        return b.shl(bits, self.splat(16)) if kind == BFLOAT16 else self._widen_float16(bits)

    def _widen_float16(self, half: ir.Value) -> ir.Value:
        """In integers, because LLVM's own conversion calls a library where the processor has none."""
        b = self.builder
        magnitude = b.shl(b.and_(half, self.splat(0x7FFF)), self.splat(13))
        special = b.icmp_unsigned(">=", magnitude, self.splat(0x1F << 23))
        rebias = b.select(special, self.splat(2 * 112 << 23), self.splat(112 << 23))
        # A subnormal is an integer times 2**-24: written behind the leading bit of 2**-14, which is then taken away.
        least = self.splat(113 << 23)
        counted = b.fsub(b.bitcast(b.add(magnitude, least), _FLOATS), b.bitcast(least, _FLOATS))
        subnormal = b.icmp_unsigned("<", magnitude, self.splat(1 << 23))
        wide = b.select(subnormal, b.bitcast(counted, _INTS), b.add(magnitude, rebias))
        return b.or_(wide, b.shl(b.and_(half, self.splat(0x8000)), self.splat(16)))

    def store(self, value: ir.Value, address: ir.Value) -> None:
        self.builder.store(value, self.builder.inttoptr(address, ir.PointerType(value.type)), align=4)

    def join(self, name: str, left: ir.Value, right: ir.Value) -> ir.Value:
        """Two partial results of `name` -> one."""
        if name == "absmax":
            return self.call("umax", left, right)
        if name == "minimum":
            return self.builder.select(self.builder.fcmp_ordered("<", left, right), left, right)
        if name == "maximum":
            return self.builder.select(self.builder.fcmp_ordered(">", left, right), left, right)
        return (self.builder.add if left.type == _INTS else self.builder.fadd)(left, right)

    def reduce(self, name: str, value: ir.Value) -> ir.Value:
        """A partial result of `name` by lane -> one float64."""
        b, kind = self.builder, value.type
        double = ir.DoubleType()
        if name in ("minimum", "maximum"):
            value = b.call(self._reduction("fmin" if name == "minimum" else "fmax", kind, [kind]), [value])
            return b.fpext(value, double)
        if kind == _INTS:
            return b.sitofp(b.call(self._reduction("add", kind, [kind]), [value]), double)
        add = self._reduction("fadd", kind, [double, kind])
        return b.call(add, [ir.Constant(double, 0.0), value], fastmath=("reassoc",))

    def _reduction(self, name: str, kind: ir.VectorType, operands: list[ir.Type]) -> ir.Function:
        suffix = {_INTS: "i32", _FLOATS: "f32", _DOUBLES: "f64"}[kind]
        function = ir.FunctionType(kind.element, operands)
        return cgutils.get_or_insert_function(
            self.builder.module, function, f"llvm.vector.reduce.{name}.v{LANES}{suffix}"
        )

    def count(self, condition: ir.Value, tally: ir.Value) -> ir.Value:
        return self.builder.sub(tally, self.builder.sext(condition, _INTS))


def _include(
    v: _Vectors, bits: ir.Value, limits: dict[str, ir.Value], so_far: dict[str, ir.Value]
) -> dict[str, ir.Value]:
    """The column's partial results with one more position."""
    b = v.builder
    x = b.bitcast(bits, _FLOATS)
    magnitude = b.and_(bits, v.splat(0x7FFFFFFF))
    delta = b.fsub(x, limits["pivot"])
    square = b.fmul(delta, delta)
    below = b.sub(magnitude, v.splat(1))
    six = int(np.float32(OUTLIER).view(np.uint32))
    return {
        "sum": b.fadd(so_far["sum"], delta),
        "squares": b.fadd(so_far["squares"], square),
        "cubes": v.call("fmuladd", square, delta, so_far["cubes"]),
        "fourths": v.call("fmuladd", square, square, so_far["fourths"]),
        "absmax": v.join("absmax", magnitude, so_far["absmax"]),
        "minimum": v.join("minimum", x, so_far["minimum"]),
        "maximum": v.join("maximum", x, so_far["maximum"]),
        "fires": v.count(b.icmp_unsigned(">", magnitude, limits["near_zero"]), so_far["fires"]),
        "outliers": v.count(b.icmp_unsigned(">=", magnitude, v.splat(six)), so_far["outliers"]),
        "subnormals": v.count(b.icmp_unsigned("<", below, limits["subnormal"]), so_far["subnormals"]),
    }


def _count_keys(v: _Vectors, bits: ir.Value, tables: list[ir.Value]) -> None:
    """Each lane's bin, one up. Keys leave the vector four at a time, which halves the work of moving them."""
    b = v.builder
    keys = b.trunc(b.lshr(b.sub(bits, v.splat(1)), v.splat(KEY_SHIFT)), ir.VectorType(_INT16, LANES))
    fours = b.bitcast(keys, ir.VectorType(_INT64, LANES // 4))
    for index in range(LANES // 4):
        four = b.extract_element(fours, _INT32(index))
        for position, table in enumerate(tables):
            key = b.and_(b.lshr(four, _INT64(16 * position)), _INT64(0xFFFF))
            cell = b.gep(table, [key])
            b.store(b.add(b.load(cell), _INT32(1)), cell)


def _add_to_channels(v: _Vectors, result: dict[str, ir.Value], cells: ir.Value, code: ir.Value) -> None:
    """code: of the slot, as `peaks` has it of a positive value."""
    b = v.builder
    for place, name in enumerate((*_OF_CHANNELS, "peak")):
        cell = b.add(cells, _INT64(4 * LANES * place))
        before = v.load(cell, result[name].type if name in result else _INTS)
        if name == "absmax":
            higher = b.icmp_unsigned(">", result[name], before)
        if name == "peak":
            negative = b.fcmp_ordered(">", b.fneg(result["minimum"]), result["maximum"])
            v.store(b.select(higher, b.or_(v.splat(code), b.zext(negative, _INTS)), before), cell)
        else:
            v.store(v.join(name, before, result[name]), cell)


def _with_signs(v: _Vectors, total: ir.Value, column: ir.Value) -> ir.Value:
    """Sums by lane with the signs that `sketch.signs` gives the channels of a column, counted from the tap's first."""
    b = v.builder
    first, shift, second = (_INT32(step) for step in SIGN_HASH)
    hashed = b.mul(b.add(column, _INT32(1)), first)
    hashed = b.mul(b.xor(hashed, b.lshr(hashed, shift)), second)
    negative = b.bitcast(b.trunc(b.lshr(hashed, _INT32(16)), _INT16), ir.VectorType(ir.IntType(1), LANES))
    return b.select(negative, b.fsub(ir.Constant(_FLOATS, [-0.0] * LANES), total), total)


def _add_to_projection(
    v: _Vectors, buckets: Sequence[ir.Value], column: ir.Value, projection: ir.Value
) -> None:
    """buckets: as they stand before `column`, which would be added to the first of them."""
    b = v.builder
    for number, kept in enumerate(buckets):
        place = b.and_(b.add(column, _INT32(number)), _INT32(len(buckets) - 1))
        cell = b.add(projection, b.mul(b.zext(place, _INT64), _INT64(4 * LANES)))
        v.store(b.fadd(v.load(cell, _FLOATS), b.load(kept)), cell)


def _move_powers(b: ir.IRBuilder, slot: dict[str, ir.Value], powers: dict[str, ir.Value]) -> None:
    """The slot's power sums from float32 into float64."""
    for name, kept in powers.items():
        b.store(b.fadd(b.load(kept), b.fpext(b.load(slot[name]), _DOUBLES)), kept)
        b.store(_ZERO, slot[name])


def _sum_columns(b: ir.IRBuilder, kind: int, args: list[ir.Value]) -> ir.Value:
    """The code of `accumulate`."""
    source, step, positions, channels, pivot, near_zero, smallest_normal, largest = args[:8]
    sums, found, histogram, first_channel, projection, code = args[8:]
    first_column = b.trunc(b.sdiv(first_channel, _INT64(LANES)), _INT32)
    element_bytes = 4 if kind == FLOAT32 else 2
    v = _Vectors(b)
    limits = {
        "pivot": v.splat(pivot, _FLOATS),
        "near_zero": v.splat(b.bitcast(near_zero, _INT32)),
        "subnormal": v.splat(b.sub(smallest_normal, _INT32(1))),
    }
    tables = [
        b.inttoptr(b.add(histogram, _INT64(4 * BINS * table)), ir.PointerType(_INT32))
        for table in range(HISTOGRAM_TABLES)
    ]
    # Variables on the stack as far as LLVM's language goes; its first pass makes registers of them.
    column = {name: cgutils.alloca_once(b, empty.type) for name, empty in _EMPTY.items()}
    slot = {name: cgutils.alloca_once_value(b, _EMPTY[name]) for name in _OF_SLOT}
    powers = {name: cgutils.alloca_once_value(b, _ZEROS) for name in _POWERS}
    buckets = [cgutils.alloca_once_value(b, _ZERO) for _ in range(PROJECTIONS // LANES)]
    summed = cgutils.alloca_once_value(b, _INT64(0))
    columns = b.sdiv(b.add(channels, _INT64(LANES - 1)), _INT64(LANES))
    with cgutils.for_range(b, columns) as outer:
        for name, empty in _EMPTY.items():
            b.store(empty, column[name])
        top = b.add(source, b.mul(outer.index, _INT64(element_bytes * LANES)))
        with cgutils.for_range(b, positions) as inner:
            address = b.add(top, b.mul(inner.index, step))
            v.prefetch(b.add(address, _INT64(_AHEAD)))
            bits = v.widen(address, kind)
            so_far = {name: b.load(kept) for name, kept in column.items()}
            for name, value in _include(v, bits, limits, so_far).items():
                b.store(value, column[name])
            _count_keys(v, bits, tables)
        result = {name: b.load(kept) for name, kept in column.items()}
        beyond = b.bitcast(b.icmp_unsigned(">", result["absmax"], v.splat(largest)), ir.IntType(LANES))
        with cgutils.if_unlikely(b, cgutils.is_not_null(b, beyond)):
            outer.do_break()
        cells = b.add(sums, b.mul(outer.index, _INT64(4 * LANES * HELD)))
        _add_to_channels(v, result, cells, code)
        left = v.splat(b.trunc(b.sub(channels, b.mul(outer.index, _INT64(LANES))), _INT32))
        own = b.icmp_signed("<", ir.Constant(_INTS, list(range(LANES))), left)
        for name, kept in slot.items():
            b.store(v.join(name, b.select(own, result[name], _EMPTY[name]), b.load(kept)), kept)
        signed = _with_signs(
            v, b.select(own, result["sum"], _ZERO), b.add(first_column, b.trunc(outer.index, _INT32))
        )
        # Buckets take turns, so each moves up a place instead of being found by its number.
        turned = [b.load(kept) for kept in buckets]
        turned.append(b.fadd(turned.pop(0), signed))
        for kept, value in zip(buckets, turned, strict=True):
            b.store(value, kept)
        following = b.add(outer.index, _INT64(1))
        b.store(following, summed)
        with b.if_then(cgutils.is_null(b, b.and_(following, _INT64(_GROUP - 1)))):
            _move_powers(b, slot, powers)
    _move_powers(b, slot, powers)
    for name, kept in slot.items():
        v.store(v.reduce(name, b.load(powers.get(name, kept))), found)
        found = b.add(found, _INT64(8))
    _add_to_projection(v, buckets, b.add(first_column, b.trunc(b.load(summed), _INT32)), projection)
    return b.load(summed)


def _accumulate_of(kind: int) -> Any:
    """`accumulate` for elements of `kind`."""

    @intrinsic
    def accumulate(
        typingctx: Any, source: Any, step: Any, positions: Any, channels: Any,
        pivot: Any, near_zero: Any, smallest_normal: Any, largest: Any, sums: Any, found: Any, histogram: Any,
        first_channel: Any, projection: Any, code: Any,
    ) -> Any:  # fmt: skip
        """Columns of `channels` channels from address `source` on -> how many columns were summed.

        It ends before a column with a magnitude over `largest`, NaN and infinities included. Of that one only the
        histogram counts, and counts everything. step: bytes from position to position; every column has 16 elements
        there, but those after the last channel are known to nothing but their own sums and the histogram.
        smallest_normal, largest: as bits of a float32.

        sums: 4-byte cells [columns, HELD, LANES], added to: sum and squares about the pivot, bits of absmax, fires,
        outliers, and where absmax rose `code`, with one more where the value is negative. found: float64[FOUND],
        overwritten with what the summed columns hold together: four power sums, minimum, maximum, fires, outliers,
        subnormals. histogram: int32[HISTOGRAM_TABLES, BINS], added to; 0.0 counts in the last bin, -0.0 in the last of
        the positive ones. projection: float32[PROJECTIONS], to which the slot's sums are added as in `sketch.project`;
        the first channel is `first_channel`. All are addresses.
        """
        wide, single, bits = types.int64, types.float32, types.uint32
        signature = types.int64(
            wide, wide, wide, wide, single, single, bits, bits, wide, wide, wide, wide, wide, types.int32
        )
        return signature, lambda context, builder, signature, args: _sum_columns(builder, kind, args)

    return accumulate


accumulate_float32, accumulate_bfloat16, accumulate_float16 = map(
    _accumulate_of, (FLOAT32, BFLOAT16, FLOAT16)
)
