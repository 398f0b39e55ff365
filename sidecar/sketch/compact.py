"""A sketch in an eighth of its bytes, to be kept by the thousand.

Counts, moments and histogram are exact. Of each channel, seen at n positions:

| kept | as | largest error |
|---|---|---|
| mean | float32 rounded to 24 bits | 2**-16 of it |
| standard deviation, absmax | float32 rounded to 16 bits | 2**-8 of it |
| fires, values of at least 6 | 16 bits, in steps of n / 65,534 where n is more | half a step; none and all stay so |

The bytes of all channels lie in planes: the first byte of every channel, then the second, and so on. The last bytes of
mean, deviation and absmax are noise to a compressor and are kept as they are; the other planes are compressed.
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
_NOISE: Final = 4
_PLANES: Final = 11
# Where the planes of each array lie: those of noise first.
_MEAN: Final = [0, 1, 4]
_DEVIATION: Final = [2, 5]
_ABSMAX: Final = [3, 6]
_FIRES: Final = [7, 8]
_OUTLIERS: Final = [9, 10]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


def pack(sketch: TapSketch) -> bytes:
    """With version and checksum; about 6 bytes a channel and 1,500 for the rest."""
    channels, counts = sketch.channels, sketch.histogram.counts
    zeros = np.zeros(len(channels))
    seen = channels.positions > 0
    planes = np.empty((_PLANES, len(channels)), dtype=np.uint8)
    planes[_MEAN] = _rounded(channels.mean if seen else zeros, 3)
    planes[_DEVIATION] = _rounded(np.sqrt(channels.variance) if seen else zeros, 2)
    planes[_ABSMAX] = _rounded(channels.absmax, 2)
    planes[_FIRES] = _steps(channels.fires, channels.positions)
    planes[_OUTLIERS] = _steps(channels.outliers, channels.positions)
    filled = np.flatnonzero(counts)
    cells = _planes(filled, "<u2").tobytes() + _planes(counts[filled], "<i8").tobytes()
    body = b"".join(
        (
            _HEADER.pack(
                _MAGIC, _VERSION, len(channels), filled.size, channels.positions,
                *astuple(sketch.counts), *astuple(sketch.moments),
            ),
            planes[:_NOISE].tobytes(),
            zlib.compress(planes[_NOISE:].tobytes() + cells, 1),
        )
    )  # fmt: skip
    return body + _CHECKSUM.pack(zlib.crc32(body))


def unpack(stored: bytes) -> TapSketch:
    """Raises SketchError when the bytes are damaged, cut short, or no sketch at all."""
    width, filled, positions, numbers = _header(stored)
    planes, cells = _arrays(stored, width, 10 * filled)
    counts = np.zeros(BINS, dtype=np.int64)
    places = _joined(cells[: 2 * filled].reshape(2, filled), "<u2")
    counts[places] = _joined(cells[2 * filled :].reshape(8, filled), "<i8")
    return TapSketch(
        Counts(*numbers[:10]), Moments(*numbers[10:]), Histogram(counts), _channels(planes, positions)
    )


def unpack_channel(stored: bytes, index: int) -> tuple[int, Channels]:
    """Requests, and one of the channels, alone; raises SketchError as `unpack` does. About thrice as quick."""
    width, _, positions, numbers = _header(stored)
    planes, _ = _arrays(stored, width, 0)
    return numbers[9], _channels(planes[:, index : index + 1], positions)


def _header(stored: bytes) -> tuple[int, int, int, Any]:
    """Width, cells that are not empty, positions, and the numbers of counts and moments."""
    body, checksum = memoryview(stored)[: -_CHECKSUM.size], stored[-_CHECKSUM.size :]
    if len(body) < _HEADER.size or stored[: len(_MAGIC)] != _MAGIC:
        raise SketchError("these bytes are not a packed sketch")
    if _CHECKSUM.unpack(checksum)[0] != zlib.crc32(body):
        raise SketchError("the packed sketch is damaged: its checksum differs")
    _, version, width, filled, positions, *numbers = _HEADER.unpack_from(body)
    if version != _VERSION:
        raise SketchError(f"packed sketch format {version} is not supported, only {_VERSION}")
    return width, filled, positions, numbers


def _arrays(stored: bytes, width: int, cells: int) -> tuple[Bytes, Bytes]:
    """uint8[planes, C], and the first `cells` bytes of the histogram's."""
    start = _HEADER.size + _NOISE * width
    size = (_PLANES - _NOISE) * width
    packed = zlib.decompressobj().decompress(memoryview(stored)[start : -_CHECKSUM.size], size + cells or 1)
    planes = np.frombuffer(stored[_HEADER.size : start] + packed[:size], np.uint8).reshape(_PLANES, width)
    return planes, np.frombuffer(packed, np.uint8, offset=size)


def _channels(planes: Bytes, positions: int) -> Channels:
    mean, deviation = _floats(planes[_MEAN]), _floats(planes[_DEVIATION])
    return Channels(
        positions=positions,
        fires=_counted(planes[_FIRES], positions),
        total=mean * positions,
        squares=(mean**2 + deviation**2) * positions,
        absmax=_floats(planes[_ABSMAX]),
        outliers=_counted(planes[_OUTLIERS], positions),
    )


def _rounded(values: Floats, size: int) -> Bytes:
    """uint8[size, C]: the leading bytes of each value's float32, the last of them first."""
    bits = values.astype(np.float32).view(np.uint32)
    up = bits + np.uint32(1 << (31 - 8 * size))
    overflow = (up & np.uint32(0x7FFFFFFF)) > _LARGEST
    return _planes(np.where(overflow, bits, up), "<u4")[4 - size :]


def _floats(planes: Bytes) -> Floats:
    """float64[C] of what `_rounded` left."""
    missing = np.zeros((4 - len(planes), planes.shape[1]), dtype=np.uint8)
    return _joined(np.concatenate((missing, planes)), "<f4").astype(np.float64)


def _steps(counts: Integers, positions: int) -> Bytes:
    """uint8[2, C]: counts in steps of n / 65,534, at least 1 where there is one, 65,535 where it is all."""
    if positions < _ALL:
        steps = counts
    else:
        steps = np.clip(np.rint(counts * ((_ALL - 1) / positions)), 1, _ALL - 1).astype(np.int64)
        steps = np.where(counts == 0, 0, np.where(counts == positions, _ALL, steps))
    return _planes(steps, "<u2")


def _counted(planes: Bytes, positions: int) -> Integers:
    steps = _joined(planes, "<u2").astype(np.int64)
    if positions < _ALL:
        return steps
    counts: Integers = np.rint(steps * (positions / (_ALL - 1))).astype(np.int64)
    return np.where(steps == _ALL, positions, counts)


def _planes(values: npt.NDArray[Any], kind: str) -> Bytes:
    """uint8[bytes, n]: the first byte of every value, then the second, and so on."""
    little = np.ascontiguousarray(values.astype(kind))
    return np.ascontiguousarray(little.view(np.uint8).reshape(little.size, little.itemsize).T)


def _joined(planes: Bytes, kind: str) -> npt.NDArray[Any]:
    """[n] of `kind`: what `_planes` took apart."""
    return np.ascontiguousarray(planes.T).view(kind).ravel()
