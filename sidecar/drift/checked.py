"""Whether the arrays of a baseline are what a reference is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sidecar.drift.frechet import SIZES
from sidecar.drift.nodrift import EFFECTS
from sidecar.sketch import ROW_STATISTICS
from sidecar.types import Tap

Members = Mapping[str, npt.NDArray[Any]]

OUTPUTS = ("energy", "margin", "predicted", "logits")
"""Of `OutputRows`, each kept as `output_` and its name."""

_LARGEST = 1e60
"""More than float32 has, and little enough for squares and sums to be numbers."""


# A terminal or a log that shows a name would obey control characters.
_Name = Annotated[str, Field(max_length=10_000, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Tap(BaseModel):
    model_config = _STRICT

    layer: Annotated[int, Field(ge=0, le=100_000)]
    site: _Name
    module: _Name
    channels: Annotated[int, Field(ge=1, le=10_000_000)]


class Header(BaseModel):
    """created_at: seconds since the epoch."""

    model_config = _STRICT

    model: _Name
    version: _Name
    created_at: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
    taps: Annotated[list[_Tap], Field(min_length=1)]
    stratified_by: _Name

    @property
    def watched(self) -> tuple[Tap, ...]:
        return tuple(Tap(tap.layer, tap.site, tap.module, tap.channels) for tap in self.taps)


def header_of(members: Members) -> Header:
    """Raises KeyError or ValueError naming what is wrong."""
    try:
        header = Header.model_validate_json(members["header"].tobytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"header {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None
    if len({tap.key for tap in header.watched}) < len(header.taps):
        raise ValueError("header: a tap is there twice")
    return header


def check_arrays(members: Members, taps: int) -> None:
    """Raises KeyError or ValueError naming the array that a reference of so many taps cannot have."""
    requests, width = members["weights"].shape[:1], members["centres"].shape[-1:]
    of_logits = members["output_logits"].shape[-1:] if "output_logits" in members else ()
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "weights": ("f8", requests),
        "common": ("b1", requests),
        "labels": ("U", requests),
        "routes": ("U", requests),
        "nodrift": ("f8", (taps, 2, len(EFFECTS))),
        "rows": ("f8", (taps, *requests, len(ROW_STATISTICS))),
        "centres": ("f4", (taps, *width)),
        "whitening": ("f4", (taps, *width, *width)),
        "distances": ("f4", (taps, *requests)),
        "mean_nodrift": ("f8", (taps, 2, len(SIZES))),
    }
    if "output_energy" in members:
        expected |= {f"output_{name}": ("f8", requests) for name in ("energy", "margin")}
        expected |= {"output_predicted": ("i8", requests), "output_logits": ("f8", (*requests, *of_logits))}
    for name, (kind, shape) in expected.items():
        found = members[name]
        if found.shape != shape or not found.dtype.str[1:].startswith(kind):
            raise ValueError(f"{name} is {found.dtype.str[1:]} {found.shape}, must be {kind} {shape}")
    if not (requests and members["common"].any()):
        raise ValueError("it is of no request")
    if not ((members["weights"] > 0) & (members["weights"] < _LARGEST)).all():
        raise ValueError(f"weights must be above 0 and below {_LARGEST}")
    for name in ("nodrift", "mean_nodrift"):
        if (members[name] < 0).any() or (members[name] > _LARGEST).any():
            raise ValueError(f"{name} must be 0 to {_LARGEST}, or NaN")
    for name in ("rows", *(f"output_{one}" for one in OUTPUTS)):
        magnitude = np.abs(members.get(name, np.zeros(0)))
        if ((magnitude > _LARGEST) & np.isfinite(magnitude)).any():
            raise ValueError(f"{name} must be within {_LARGEST}, or not finite")
    _check_space(members["centres"], members["whitening"])


def _check_space(centres: npt.NDArray[Any], matrices: npt.NDArray[Any]) -> None:
    known = ~np.isnan(centres).any(axis=1)
    if not (np.isfinite(centres[known]).all() and np.isfinite(matrices[known]).all()):
        raise ValueError("centres and whitening must be finite, or NaN for a tap without projections")
    if centres.shape[1] and (np.linalg.slogdet(matrices[known].astype(np.float64))[0] == 0).any():
        raise ValueError("whitening has no inverse")
