"""A sketch in an eighth of its bytes, to be kept by the thousand.

Counts, moments and histogram are exact. Of each channel, seen at n positions:

| kept | as | largest error |
|---|---|---|
| mean | float32 rounded to 24 bits | 2**-16 of it |
| standard deviation, absmax | float32 rounded to 16 bits | 2**-8 of it |
| fires, values of at least 6 | 16 bits, in steps of n / 65,534 where n is more | half a step; none and all stay so |
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import astuple
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sidecar.errors import SketchError
from sidecar.sketch.channels import Channels
from sidecar.sketch.counts import Counts
from sidecar.sketch.histogram import BINS, Histogram
from sidecar.sketch.moments import Moments
from sidecar.sketch.tap import TapSketch

_MAGIC: Final = b"TAPC"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sHIHq10qq6d")
_CHECKSUM: Final = struct.Struct("<I")
_LARGEST: Final = np.uint32(0x7F7FFFFF)
_ALL: Final = 65_535
# The last bytes of mean, deviation and absmax are noise to a compressor, and kept as they are.
_NOISE: Final = 4
_QUIET: Final = 7
_CELL_BYTES: Final = 2 + 8

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


def pack(sketch: TapSketch) -> bytes:
    """With version and checksum; about 6 bytes a channel and 1,500 for the rest."""
    channels, counts = sketch.channels, sketch.histogram.counts
    seen = channels.positions > 0
    mean = _rounded(channels.mean, 3) if seen else np.zeros((3, len(channels)), np.uint8)
    deviation = _rounded(np.sqrt(channels.variance), 2) if seen else np.zeros((2, len(channels)), np.uint8)
    absmax = _rounded(channels.absmax, 2)
    fires, outliers = (
        _steps(channels.fires, channels.positions),
        _steps(channels.outliers, channels.positions),
    )
    filled = np.flatnonzero(counts)
    cells = _planes(filled, "<u2"), _planes(counts[filled], "<i8")
    quiet = (mean[2:], deviation[1:], absmax[1:], fires, outliers, *cells)
    body = b"".join(
        (
            _HEADER.pack(
                _MAGIC, _VERSION, len(channels), filled.size, channels.positions,
                *astuple(sketch.counts), *astuple(sketch.moments),
            ),
            np.concatenate((mean[:2], deviation[:1], absmax[:1])).tobytes(),
            zlib.compress(np.concatenate([part.ravel() for part in quiet]).tobytes(), 1),
        )
    )  # fmt: skip
    return body + _CHECKSUM.pack(zlib.crc32(body))


def unpack(stored: bytes) -> TapSketch:
    """Raises SketchError when the bytes are damaged, cut short, or no sketch at all."""
    body, checksum = stored[: -_CHECKSUM.size], stored[-_CHECKSUM.size :]
    if len(body) < _HEADER.size or body[: len(_MAGIC)] != _MAGIC:
        raise SketchError("these bytes are not a packed sketch")
    if _CHECKSUM.unpack(checksum)[0] != zlib.crc32(body):
        raise SketchError("the packed sketch is damaged: its checksum differs")
    _, version, width, filled, positions, *numbers = _HEADER.unpack_from(body)
    if version != _VERSION:
        raise SketchError(f"packed sketch format {version} is not supported, only {_VERSION}")
    start = _HEADER.size + _NOISE * width
    noise = np.frombuffer(body, np.uint8, _NOISE * width, _HEADER.size).reshape(_NOISE, width)
    quiet = np.frombuffer(zlib.decompress(body[start:]), np.uint8)
    planes, cells = quiet[: _QUIET * width].reshape(_QUIET, width), quiet[_QUIET * width :]
    mean = _widened((noise[0], noise[1], planes[0]))
    deviation = _widened((noise[2], planes[1]))
    counts = np.zeros(BINS, dtype=np.int64)
    counts[_joined(cells[: 2 * filled].reshape(2, filled))] = _joined(cells[2 * filled :].reshape(8, filled))
    return TapSketch(
        Counts(*numbers[:10]),
        Moments(*numbers[10:]),
        Histogram(counts),
        Channels(
            positions=positions,
            fires=_counted(planes[3:5], positions),
            total=mean * positions,
            squares=(mean**2 + deviation**2) * positions,
            absmax=_widened((noise[3], planes[2])),
            outliers=_counted(planes[5:7], positions),
        ),
    )


def _rounded(values: Floats, size: int) -> Bytes:
    """uint8[size, C]: the leading bytes of each value's float32, the last of them first."""
    bits = values.astype(np.float32).view(np.uint32)
    drop = 8 * (4 - size)
    up = bits + np.uint32(1 << (drop - 1))
    overflow = (up & np.uint32(0x7FFFFFFF)) > _LARGEST
    return _planes(np.where(overflow, bits, up) >> np.uint32(drop), "<u4")[:size]


def _widened(planes: tuple[npt.NDArray[Any], ...]) -> Floats:
    """float64[C] of what `_rounded` left."""
    bits = _joined(planes) << (8 * (4 - len(planes)))
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def _steps(counts: Integers, positions: int) -> Bytes:
    """uint8[2, C]: counts in steps of n / 65,534, at least 1 where there is one, 65,535 where it is all."""
    if positions < _ALL:
        steps = counts
    else:
        steps = np.clip(np.rint(counts * ((_ALL - 1) / positions)), 1, _ALL - 1).astype(np.int64)
        steps = np.where(counts == 0, 0, np.where(counts == positions, _ALL, steps))
    return _planes(steps, "<u2")


def _counted(planes: Bytes, positions: int) -> Integers:
    steps = _joined(planes)
    if positions < _ALL:
        return steps
    counts: Integers = np.rint(steps * (positions / (_ALL - 1))).astype(np.int64)
    return np.where(steps == _ALL, positions, counts)


def _planes(values: npt.NDArray[Any], kind: str) -> Bytes:
    """uint8[bytes, n]: the first byte of every value, then the second, and so on."""
    little = np.ascontiguousarray(values.astype(kind))
    return np.ascontiguousarray(little.view(np.uint8).reshape(little.size, little.itemsize).T)


def _joined(planes: tuple[npt.NDArray[Any], ...] | Bytes) -> Integers:
    """int64[n] of what `_planes` took apart."""
    whole = np.zeros(len(planes[0]), dtype=np.int64)
    for place, plane in enumerate(planes):
        whole |= plane.astype(np.int64) << (8 * place)
    return whole
