"""External data of an ONNX model: files of its own folder and below, reached through no link.

A model names the file, the offset and the length of a tensor, and such names have been used to read what lies
elsewhere: CVE-2022-25882 and CVE-2024-27318 (dot-dot, empty folder), CVE-2025-51480, CVE-2026-27489 (symbolic links),
CVE-2026-34446 (hard links), and keys that no reader knows (CVE-2026-34445). Format: docs/ExternalData.md of onnx/onnx.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from sidecar.errors import ModelError
from sidecar.types import DATATYPES

Array = npt.NDArray[Any]

ELEMENT_TYPES: Mapping[str, int] = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
}
"""Open Inference Protocol datatype -> ONNX element type."""

STORED = {element_type: DATATYPES[datatype] for datatype, element_type in ELEMENT_TYPES.items()}
"""ONNX element type -> how its values lie in numpy."""

_KEYS = frozenset({"location", "offset", "length", "checksum"})


def size(tensor: TensorProto) -> int:
    """Bytes that its type and shape need; only for types in STORED. Raises ModelError for a negative dimension."""
    if min(tensor.dims, default=0) < 0:
        raise ModelError(f"tensor {tensor.name!r} has shape {list(tensor.dims)}")
    return math.prod(tensor.dims) * STORED[tensor.data_type].itemsize


class Folder:
    """Where external data may lie. The path to the folder is the operator's word, and links in it are followed."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self._files: dict[str, Array] = {}

    def content(self, tensor: TensorProto) -> Array:
        """The bytes of `tensor`, uint8[n], mapped. Raises ModelError."""
        entries = _entries(tensor)
        location = entries["location"]
        try:
            if location not in self._files:
                self._files[location] = _map(self._open(location))
        except ModelError as error:
            raise ModelError(f"external data {location!r} of tensor {tensor.name!r} {error}") from error
        content = self._files[location]
        offset = _number(tensor, entries, "offset", 0)
        length = _number(tensor, entries, "length", len(content) - offset)
        if tensor.data_type in STORED and length != size(tensor):
            raise ModelError(
                f"external data of tensor {tensor.name!r} has {length} bytes, its shape needs {size(tensor)}"
            )
        if offset + length > len(content) or length < 0:
            raise ModelError(
                f"external data of tensor {tensor.name!r} is bytes {offset} to {offset + length} of a file "
                f"of {len(content)}"
            )
        return content[offset : offset + length]

    def _open(self, location: str) -> int:
        """A descriptor, opened name by name, so that nothing can become a link between a check and its use."""
        parts = PurePosixPath(location).parts
        if not parts or parts[0].startswith("/") or ".." in parts or "\0" in location:
            raise ModelError("must be a path inside the model's folder")
        folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        for part in parts[:-1]:
            folder = _step(folder, part, os.O_DIRECTORY)
        # Opening a pipe would wait for somebody to write.
        file = _step(folder, parts[-1], os.O_NONBLOCK)
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            os.close(file)
            raise ModelError(
                "is a hard link, must be a file with one name"
                if stat.S_ISREG(status.st_mode)
                else "is not a regular file"
            )
        return file


def _step(folder: int, name: str, flags: int) -> int:
    """Open `name` in `folder`, which is closed."""
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=folder)
    except OSError as error:
        # A link where a folder must be shows as ENOTDIR.
        linked = error.errno == errno.ELOOP or stat.S_ISLNK(_mode(name, folder))
        raise ModelError(
            "passes through a symbolic link" if linked else f"cannot be opened: {error.strerror}"
        ) from error
    finally:
        os.close(folder)


def _mode(name: str, folder: int) -> int:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except OSError:
        return 0


def _map(file: int) -> Array:
    try:
        if os.fstat(file).st_size == 0:
            return np.zeros(0, np.uint8)
        return np.frombuffer(mmap.mmap(file, 0, prot=mmap.PROT_READ), np.uint8)
    finally:
        os.close(file)


def _entries(tensor: TensorProto) -> dict[str, str]:
    keys = [entry.key for entry in tensor.external_data]
    if unknown := sorted(set(keys) - _KEYS):
        raise ModelError(
            f"external data of tensor {tensor.name!r} has key {unknown[0]!r}, must be {sorted(_KEYS)}"
        )
    if len(keys) != len(set(keys)) or "location" not in keys:
        raise ModelError(f"external data of tensor {tensor.name!r} must have one location, and each key once")
    return {entry.key: entry.value for entry in tensor.external_data}


def _number(tensor: TensorProto, entries: Mapping[str, str], key: str, otherwise: int) -> int:
    text = entries.get(key)
    if text is None:
        return otherwise
    # int() takes signs, spaces and underscores; more digits than this are no size of a file.
    if not (text.isascii() and text.isdecimal() and len(text) <= 19):
        raise ModelError(
            f"external data of tensor {tensor.name!r} has {key} {text[:40]!r}, must be a number from 0"
        )
    return int(text)
