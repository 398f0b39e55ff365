"""Elements of any float type and stride, copied into the columns of float32 that `vector_block` reads."""

# mypy: ignore-errors
# numba compiles a language that only looks like typed Python.
from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from sidecar.capture.vector_block import BFLOAT16, FLOAT32, LANES

# numba knows compiled code by the text of this file alone: a hash of what else goes into it, which a test holds.
COMPILED_WITH = "ffade539ddbc2127"

_CACHE_LINE = 64


@intrinsic
def pointer(typingctx: Any, address: Any, like: Any) -> Any:
    """Address -> pointer to elements of the type of `like`."""
    signature = types.CPointer(like)(address, like)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.PointerType(context.get_value_type(signature.return_type.dtype)))

    return signature, codegen


@njit(cache=True, nogil=True)
def aligned(cells):
    """float32[cells] of zeros that begins with a cache line, as vectors that straddle two cost twice."""
    spare = np.zeros(cells + LANES, np.float32)
    skip = (-spare.ctypes.data % _CACHE_LINE) // 4
    return spare[skip : skip + cells]


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
def copy_columns(address, kind, position_step, channel_step, positions, n, columns):
    """[positions, n] elements of `kind` at `address`, with strides in elements, into columns[positions, channels].

    Zeros follow the last channel, as far as its column reaches.
    """
    reach = (positions - 1) * position_step + (n - 1) * channel_step + 1
    bits = columns.view(np.uint32)
    if kind == FLOAT32:
        words = carray(pointer(address, np.uint32(0)), (reach,))
        for p in range(positions):
            for c in range(n):
                bits[p, c] = words[p * position_step + c * channel_step]
    else:
        halves = carray(pointer(address, np.uint16(0)), (reach,))
        for p in range(positions):
            for c in range(n):
                half = halves[p * position_step + c * channel_step]
                if kind == BFLOAT16:
                    bits[p, c] = np.uint32(half) << np.uint32(16)
                else:
                    bits[p, c] = _widen_half(np.int64(half))
    for p in range(positions):
        for c in range(n, -(-n // LANES) * LANES):
            bits[p, c] = 0
