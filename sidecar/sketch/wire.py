"""A sketch as bytes: header, little-endian arrays in one order, checksum."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import astuple
from typing import Final

import numpy as np
import numpy.typing as npt

from sidecar.errors import SketchError
from sidecar.sketch.channels import Channels
from sidecar.sketch.counts import Counts
from sidecar.sketch.histogram import BINS, Histogram
from sidecar.sketch.moments import Moments

_MAGIC: Final = b"TAPS"
_VERSION: Final = 2
_HEADER: Final = struct.Struct("<4sHI")
_COUNTS: Final = struct.Struct("<10q")
_MOMENTS: Final = struct.Struct("<q6d")
_POSITIONS: Final = struct.Struct("<q")
_CHECKSUM: Final = struct.Struct("<I")
_ARRAYS_PER_CHANNEL: Final = 5
_MOST_COUNTED: Final = 2**60
_FIXED: Final = _HEADER.size + _COUNTS.size + _MOMENTS.size + 8 * BINS + _POSITIONS.size + _CHECKSUM.size


def pack(counts: Counts, moments: Moments, histogram: Histogram, channels: Channels) -> bytes:
    integers = (histogram.counts, channels.fires, channels.outliers)
    sums = (channels.total, channels.squares, channels.absmax)
    body = b"".join(
        (
            _HEADER.pack(_MAGIC, _VERSION, len(channels)),
            _COUNTS.pack(*astuple(counts)),
            _MOMENTS.pack(*astuple(moments)),
            _POSITIONS.pack(channels.positions),
            *(part.astype("<i8").tobytes() for part in integers),
            *(part.astype("<f8").tobytes() for part in sums),
        )
    )
    return body + _CHECKSUM.pack(zlib.crc32(body))


def unpack(stored: bytes) -> tuple[Counts, Moments, Histogram, Channels]:
    """Raises SketchError naming what does not fit."""
    if len(stored) < _FIXED or stored[: len(_MAGIC)] != _MAGIC:
        raise SketchError("these bytes are not a sketch")
    _, version, width = _HEADER.unpack_from(stored)
    if version != _VERSION:
        raise SketchError(f"sketch format {version} is not supported, only {_VERSION}")
    if len(stored) != _FIXED + 8 * _ARRAYS_PER_CHANNEL * width:
        raise SketchError(f"a sketch of {width} channels cannot have {len(stored)} bytes")
    body, checksum = stored[: -_CHECKSUM.size], stored[-_CHECKSUM.size :]
    if _CHECKSUM.unpack(checksum)[0] != zlib.crc32(body):
        raise SketchError("the sketch is damaged: its checksum differs")

    position = _HEADER.size
    counts = Counts(*_COUNTS.unpack_from(body, position))
    position += _COUNTS.size
    moments = Moments(*_MOMENTS.unpack_from(body, position))
    position += _MOMENTS.size
    (positions,) = _POSITIONS.unpack_from(body, position)
    position += _POSITIONS.size
    integers: npt.NDArray[np.int64] = np.frombuffer(body, "<i8", BINS + 2 * width, position).astype(np.int64)
    position += integers.nbytes
    sums: npt.NDArray[np.float64] = np.frombuffer(body, "<f8", 3 * width, position).astype(np.float64)
    fires, outliers = integers[BINS:].reshape(2, width)
    total, squares, absmax = sums.reshape(3, width)
    _check(counts, moments, positions, integers, sums)
    return (
        counts,
        moments,
        Histogram(integers[:BINS]),
        Channels(positions, fires, total, squares, absmax, outliers),
    )


def _check(
    counts: Counts,
    moments: Moments,
    positions: int,
    integers: npt.NDArray[np.int64],
    sums: npt.NDArray[np.float64],
) -> None:
    """Bytes with a right checksum may still be of no values that there can be."""
    counted = (*astuple(counts), moments.n, positions, int(integers.min()))
    if min(counted) < 0 or max(*counted, float(integers.sum(dtype=np.float64))) > _MOST_COUNTED:
        raise SketchError("the sketch counts less than nothing, or more than can be counted")
    powers = (moments.mean, moments.m2, moments.m3, moments.m4)
    _, squares, absmax = sums.reshape(3, -1)
    known = all(map(math.isfinite, powers)) and bool(np.isfinite(sums).all())
    if not known or min(moments.m2, moments.m4, squares.min(initial=0.0), absmax.min(initial=0.0)) < 0:
        raise SketchError("the sketch has sums that are not finite, or squares below 0")
    if math.isnan(moments.minimum + moments.maximum) and moments.n:
        raise SketchError("the sketch has no extremes")
