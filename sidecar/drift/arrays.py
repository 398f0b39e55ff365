"""Archives of arrays as `numpy.savez_compressed` writes them, read as if an enemy had written them."""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_BYTES = 2**30
"""Most that an archive may hold, unpacked."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_SUFFIX = ".npy"
# Format 1.0 of .npy, as numpy itself writes its header: a literal, which needs no evaluation.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<dtype>[^']{1,20})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>[0-9, ]{0,100})\), \} *\n",
    re.DOTALL,
)
_DTYPE = re.compile(r"[<|](b1|[iu][1248]|f[248]|U[0-9]{1,4})")


def unpacked(archive: bytes, most_bytes: int = MOST_BYTES) -> dict[str, npt.NDArray[Any]]:
    """Name -> array. Raises ValueError that names what is wrong; never takes much more memory than `most_bytes`."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            members = opened.infolist()
            held = sum(member.file_size for member in members)
            if held > most_bytes:
                raise ValueError(f"it holds {held:,} bytes unpacked, at most {most_bytes:,} are read")
            found = {}
            for member in members:
                name = member.filename.removesuffix(_SUFFIX)
                if name in found or name == member.filename or member.compress_type not in _METHODS:
                    raise ValueError(f"its member {member.filename!r} is no array, or there twice")
                found[name] = _array(name, opened.read(member))
            return found
    except _BROKEN as error:
        raise ValueError(f"it is no whole archive: {error}") from error


_BROKEN = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, IndexError, OSError, OverflowError, RuntimeError,
)  # fmt: skip
"""What zipfile raises for archives that lie: that they are of later versions, or encrypted, as RuntimeError."""


def kind_of(dtype: str) -> np.dtype[Any]:
    """One of numbers, truth values or short strings. Raises ValueError for all others."""
    if not _DTYPE.fullmatch(dtype):
        raise ValueError(f"an array cannot be of {dtype!r}")
    return np.dtype(dtype)


def _array(name: str, content: bytes) -> npt.NDArray[Any]:
    header = _HEADER.match(content)
    if header is None:
        raise ValueError(f"array {name} does not begin as a .npy file does")
    try:
        kind = kind_of(header["dtype"].decode("latin-1"))
        shape = tuple(int(size) for size in header["shape"].decode().split(",") if size.strip())
    except ValueError as error:
        raise ValueError(f"array {name}: {error}") from error
    size = len(content) - header.end()
    if math.prod(shape) * kind.itemsize != size:
        raise ValueError(f"array {name} has {size} bytes, which {kind.str} of shape {shape} has not")
    flat = np.frombuffer(content, kind, math.prod(shape), header.end()) if size else np.empty(shape, kind)
    return flat.reshape(shape, order="F" if header["fortran"] == b"True" else "C").copy()
