"""The inner loop of the CPU kernel, written in vectors of 16 channels.

A column is 16 neighbouring channels over the positions of a tile. All that is summed about it stays in
registers while the loop runs down the positions; a loop vectoriser runs along the channels instead, and so
loads and stores each channel's sums for every value. Columns follow one another through memory, and the cache
line of each position is fetched some columns ahead, because hardware does not see a stream in strides of pages.

The vectors are LLVM's own, so a processor of any width compiles them: one register of AVX-512, two of AVX2,
four of NEON.
"""

# mypy: ignore-errors
# llvmlite builds code, and gives no types for it.
from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sidecar.capture.layout import HISTOGRAM_TABLES, OUTLIER
from sidecar.sketch import BINS

LANES = 16
FOUND = 9
KEY_SHIFT = 20
"""The top 12 bits of a float32, less one so that upper edges are included, name its bin."""

_GROUP = 16
_AHEAD = 4 * 64
_TO_SECOND_LEVEL = 2

_BIT, _INT16, _INT32, _INT64 = (ir.IntType(bits) for bits in (1, 16, 32, 64))
_INTS, _FLOATS, _DOUBLES = (ir.VectorType(kind, LANES) for kind in (_INT32, ir.FloatType(), ir.DoubleType()))

_ZERO, _LOWEST, _HIGHEST = (ir.Constant(_FLOATS, [value] * LANES) for value in (0.0, np.inf, -np.inf))
_NONE = ir.Constant(_INTS, [0] * LANES)
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
        first = self.builder.insert_element(undefined, value, ir.Constant(_INT32, 0))
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
        read, cached_data = ir.Constant(_INT32, 0), ir.Constant(_INT32, 1)
        level = ir.Constant(_INT32, _TO_SECOND_LEVEL)
        self.builder.call(function, [self.builder.inttoptr(address, pointer), read, level, cached_data])

    def load(self, address: ir.Value, kind: ir.Type) -> ir.Value:
        return self.builder.load(self.builder.inttoptr(address, ir.PointerType(kind)), align=4)

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
        four = b.extract_element(fours, ir.Constant(_INT32, index))
        for position, table in enumerate(tables):
            key = b.and_(b.lshr(four, ir.Constant(_INT64, 16 * position)), ir.Constant(_INT64, 0xFFFF))
            cell = b.gep(table, [key])
            b.store(b.add(b.load(cell), ir.Constant(_INT32, 1)), cell)


@intrinsic
def accumulate(
    typingctx: Any, source: Any, step: Any, positions: Any, columns: Any,
    pivot: Any, near_zero: Any, smallest_normal: Any, largest: Any,
    channel_sums: Any, lanes: Any, found: Any, histogram: Any,
) -> Any:  # fmt: skip
    """Columns from float32 at `source` on, `step` bytes from position to position -> how many of them were summed.

    It ends before a column with a magnitude over `largest` (NaN and infinities included): of that one only the
    histogram counts everything, non-finite values as well. Magnitudes are given as bits of a float32.

    channel_sums: 4-byte cells [5, width]: sum and squares about the pivot, bits of absmax, fires, outliers; added to.
    found: float64[FOUND], what the first `lanes` lanes of the summed columns hold; overwritten.
    histogram: int32[HISTOGRAM_TABLES, BINS]; added to. -0.0 counts as bin BINS / 2 - 1, 0.0 as the last bin.
    """
    addresses = (types.int64,) * 4
    counts = (types.int64,) * 4
    signature = types.int64(*counts, types.float32, types.float32, types.uint32, types.uint32, *addresses)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        source, step, positions, columns, pivot, near_zero, smallest_normal, largest = args[:8]
        channel_sums, lanes, found_address, histogram = args[8:]
        b, v = builder, _Vectors(builder)
        limits = {
            "pivot": v.splat(pivot, _FLOATS),
            "near_zero": v.splat(b.bitcast(near_zero, _INT32)),
            "subnormal": v.splat(b.sub(smallest_normal, ir.Constant(_INT32, 1))),
        }
        tables = [
            b.inttoptr(b.add(histogram, ir.Constant(_INT64, 4 * BINS * table)), ir.PointerType(_INT32))
            for table in range(HISTOGRAM_TABLES)
        ]
        vector_bytes = ir.Constant(_INT64, 4 * LANES)
        column = {name: cgutils.alloca_once(b, empty.type) for name, empty in _EMPTY.items()}
        slot = {name: cgutils.alloca_once_value(b, _EMPTY[name]) for name in _OF_SLOT}
        powers = {
            name: cgutils.alloca_once_value(b, ir.Constant(_DOUBLES, [0.0] * LANES)) for name in _POWERS
        }

        def widen():
            for name, kept in powers.items():
                b.store(b.fadd(b.load(kept), b.fpext(b.load(slot[name]), _DOUBLES)), kept)
                b.store(_ZERO, slot[name])

        summed = cgutils.alloca_once_value(b, ir.Constant(_INT64, 0))
        with cgutils.for_range(b, columns) as outer:
            for name, empty in _EMPTY.items():
                b.store(empty, column[name])
            top = b.add(source, b.mul(outer.index, vector_bytes))
            with cgutils.for_range(b, positions) as inner:
                address = b.add(top, b.mul(inner.index, step))
                v.prefetch(b.add(address, ir.Constant(_INT64, _AHEAD)))
                bits = v.load(address, _INTS)
                so_far = {name: b.load(kept) for name, kept in column.items()}
                for name, value in _include(v, bits, limits, so_far).items():
                    b.store(value, column[name])
                _count_keys(v, bits, tables)
            found = {name: b.load(kept) for name, kept in column.items()}
            beyond = b.icmp_unsigned(">", found["absmax"], v.splat(largest))
            any_lane = ir.IntType(LANES)
            with cgutils.if_unlikely(b, b.icmp_unsigned("!=", b.bitcast(beyond, any_lane), any_lane(0))):
                outer.do_break()
            cell = b.add(channel_sums, b.mul(outer.index, ir.Constant(_INT64, 4 * LANES * len(_OF_CHANNELS))))
            for name in _OF_CHANNELS:
                v.store(v.join(name, v.load(cell, found[name].type), found[name]), cell)
                cell = b.add(cell, vector_bytes)
            for name, kept in slot.items():
                b.store(v.join(name, found[name], b.load(kept)), kept)
            following = b.add(outer.index, ir.Constant(_INT64, 1))
            b.store(following, summed)
            group = b.and_(following, ir.Constant(_INT64, _GROUP - 1))
            with b.if_then(b.icmp_unsigned("==", group, ir.Constant(_INT64, 0))):
                widen()
        widen()
        own = b.icmp_unsigned("<", ir.Constant(_INTS, list(range(LANES))), v.splat(b.trunc(lanes, _INT32)))
        for name, kept in slot.items():
            value = b.load(powers.get(name, kept))
            none = ir.Constant(_DOUBLES, [0.0] * LANES) if name in _POWERS else _EMPTY[name]
            v.store(v.reduce(name, b.select(own, value, none)), found_address)
            found_address = b.add(found_address, ir.Constant(_INT64, 8))
        return b.load(summed)

    return signature, codegen
