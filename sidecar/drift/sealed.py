"""Files of arrays that are whole or not there: a magic, a format version, a SHA-256, compressed arrays."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sidecar.drift.arrays import MOST_BYTES, unpacked
from sidecar.errors import BaselineError

Members = Mapping[str, npt.NDArray[Any]]

_DIGEST_BYTES = hashlib.sha256().digest_size


class Sealed:
    """One kind of file. name: what messages call it. magic, version: what it begins with."""

    def __init__(self, name: str, magic: bytes, version: int) -> None:
        self._name, self._magic, self._version = name, magic, version
        self._prefix = magic + bytes([version])

    def seal(self, members: Members) -> bytes:
        """Raises BaselineError where there is more of it than `unseal` reads."""
        if (held := sum(member.nbytes for member in members.values())) > MOST_BYTES:
            raise BaselineError(
                f"a {self._name} of {held:,} bytes is too large, at most {MOST_BYTES:,} are read"
            )
        payload = io.BytesIO()
        np.savez_compressed(payload, **members)  # type: ignore[arg-type]
        whole = payload.getvalue()
        return self._prefix + hashlib.sha256(whole).digest() + whole

    def unseal(self, stored: bytes, named: str) -> dict[str, npt.NDArray[Any]]:
        """named: what messages call it. Raises BaselineError when it is damaged, or something else."""
        if not stored.startswith(self._magic) or len(stored) < len(self._prefix) + _DIGEST_BYTES:
            raise BaselineError(f"{named} is not a {self._name}")
        if not stored.startswith(self._prefix):
            found = stored[len(self._magic)]
            raise BaselineError(f"{named} has {self._name} format {found}, supported is {self._version}")
        digest, whole = (
            stored[len(self._prefix) :][:_DIGEST_BYTES],
            stored[len(self._prefix) + _DIGEST_BYTES :],
        )
        if hashlib.sha256(whole).digest() != digest:
            raise BaselineError(f"{named} is damaged: its checksum differs")
        try:
            return unpacked(whole)
        except ValueError as error:
            raise BaselineError(f"{named} is damaged: {error}") from error

    def write(self, path: Path, members: Members) -> None:
        """The old file stays until the new one is whole. Raises BaselineError when it cannot be written."""
        temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            with temporary.open("wb") as file:
                file.write(self.seal(members))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise BaselineError(f"cannot write the {self._name} {path}: {error.strerror}") from error

    def stored(self, path: Path) -> bytes:
        """Raises BaselineError when the file cannot be read."""
        try:
            return path.read_bytes()
        except OSError as error:
            raise BaselineError(f"cannot read the {self._name} {path}: {error.strerror}") from error
