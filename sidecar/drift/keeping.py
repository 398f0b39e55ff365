"""Reference and evidence of one model version, kept across restarts."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import numpy as np

from sidecar.drift.judge import Judge
from sidecar.drift.reference import Reference
from sidecar.drift.sealed import Sealed
from sidecar.errors import BaselineError

_SEALED = Sealed("drift state", b"sidecar-evidence", 3)

_log = logging.getLogger(__name__)


class Keeping:
    """Two files in a folder: the reference, written once, and the evidence, written again and again.

    What is damaged or belongs to something else is set aside, by a name that ends with `.aside`, and said.
    """

    def __init__(self, folder: Path, model: str, version: str) -> None:
        self._folder = folder
        self._reference_file = folder / f"{model}@{version}.baseline"
        self._evidence_file = folder / f"{model}@{version}.evidence"

    def reference(self) -> Reference | None:
        if not self._reference_file.exists():
            return None
        try:
            return Reference.load(self._reference_file)
        except BaselineError as error:
            self.set_aside(error)
            return None

    def resume(self, judge: Judge, reference: Reference, rng: np.random.Generator) -> None:
        """Go on from the evidence that was kept, if it is of this reference; `rng` too."""
        if not self._evidence_file.exists():
            return
        try:
            stored = _SEALED.stored(self._evidence_file)
            members = _SEALED.unseal(stored, str(self._evidence_file))
            header = json.loads(members.pop("header").tobytes())
            if header["reference"] != fingerprint(reference):
                raise BaselineError(f"{self._evidence_file} is of another reference")
            judge.resume(members)
            rng.bit_generator.state = header["rng"]
        except BaselineError as error:
            self._aside(self._evidence_file, error)
        except (KeyError, ValueError, TypeError) as error:
            self._aside(self._evidence_file, f"{self._evidence_file} is damaged: {error}")

    def keep_reference(self, reference: Reference) -> None:
        """Raises BaselineError when it cannot be written."""
        self._make_folder()
        reference.save(self._reference_file)

    def keep(self, judge: Judge, reference: Reference, rng: np.random.Generator) -> None:
        """Raises BaselineError when it cannot be written."""
        self._make_folder()
        header = {"reference": fingerprint(reference), "rng": rng.bit_generator.state}
        members = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8), **judge.state()}
        _SEALED.write(self._evidence_file, members)

    def set_aside(self, reason: object) -> None:
        """The reference that was kept shall not be used."""
        self._aside(self._reference_file, reason)

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BaselineError(f"cannot make the folder {self._folder}: {error.strerror}") from error

    def _aside(self, path: Path, reason: object) -> None:
        _log.error("%s; it is set aside, and drift begins anew", reason)
        path.replace(path.with_name(f"{path.name}.aside"))


def fingerprint(reference: Reference) -> str:
    """The same for the same requests, whatever order the taps are in."""
    rows = sorted(hashlib.sha256(np.ascontiguousarray(tap).tobytes()).hexdigest() for tap in reference.rows)
    return hashlib.sha256("".join(rows).encode()).hexdigest()
