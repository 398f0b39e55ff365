"""Baselines as JSON, for programs of other languages and for people who look at numbers; see docs/baselines.md."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sidecar.drift import Reference
from sidecar.drift.arrays import MOST_BYTES, kind_of
from sidecar.errors import BaselineError, SketchError
from sidecar.sketch import BINS, Channels, Counts, Histogram, Moments, TapSketch

FORMAT = "sidecar-baseline-json"
VERSION = 3

_CHANNELS: dict[str, npt.DTypeLike] = {
    "fires": np.int64, "total": np.float64, "squares": np.float64, "absmax": np.float64, "outliers": np.int64,
}  # fmt: skip


def to_json(reference: Reference) -> str:
    """One line. Numbers that JSON does not have are the strings "nan", "inf" and "-inf"; every number comes back."""
    members = reference.members()
    header = json.loads(members.pop("header").tobytes())
    for index in range(len(reference.sketches)):
        del members[f"sketch{index}"]
    written = {
        "format": FORMAT,
        "version": VERSION,
        "header": header,
        "sketches": [_sketch(sketch) for sketch in reference.sketches],
        "arrays": {
            name: {"dtype": array.dtype.str, "shape": array.shape, "values": _plain(array.ravel().tolist())}
            for name, array in members.items()
        },
    }
    return json.dumps(written, allow_nan=False)


def from_json(path: Path) -> Reference:
    """Raises BaselineError for a file that cannot be read, or is not what `to_json` writes."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BaselineError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BaselineError(f"{path} is not JSON: {error}") from error
    if not isinstance(read, dict) or read.get("format") != FORMAT:
        raise BaselineError(f"{path} is not a baseline: its format must be {FORMAT!r}")
    if read.get("version") != VERSION:
        raise BaselineError(f"{path} has JSON version {read.get('version')!r}, supported is {VERSION}")
    try:
        members = {name: _array(entry) for name, entry in read["arrays"].items()}
        members["header"] = np.frombuffer(json.dumps(read["header"]).encode(), np.uint8)
        for index, sketch in enumerate(read["sketches"]):
            members[f"sketch{index}"] = np.frombuffer(_read_sketch(sketch).to_bytes(), np.uint8)
        return Reference.of_members(members)
    except _NOT_WHOLE as error:
        raise BaselineError(f"{path} is not a whole baseline: {error!r}") from error


_NOT_WHOLE = (
    AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError, SketchError,
    struct.error,
)  # fmt: skip


def _sketch(sketch: TapSketch) -> dict[str, Any]:
    filled = np.flatnonzero(sketch.histogram.counts)
    return {
        "counts": asdict(sketch.counts),
        "moments": {name: _plain(value) for name, value in asdict(sketch.moments).items()},
        "histogram": {str(cell): int(sketch.histogram.counts[cell]) for cell in filled},
        "positions": sketch.channels.positions,
        "channels": {name: _plain(getattr(sketch.channels, name).tolist()) for name in _CHANNELS},
    }


def _read_sketch(read: dict[str, Any]) -> TapSketch:
    counts = np.zeros(BINS, dtype=np.int64)
    for cell, count in read["histogram"].items():
        counts[int(cell)] = count
    moments = {name: float(value) for name, value in read["moments"].items() if name != "n"}
    channels = {name: np.array(read["channels"][name]).astype(kind) for name, kind in _CHANNELS.items()}
    return TapSketch(
        Counts(**read["counts"]),
        Moments(n=int(read["moments"]["n"]), **moments),
        Histogram(counts),
        Channels(positions=read["positions"], **channels),
    )


def _array(entry: dict[str, Any]) -> npt.NDArray[Any]:
    kind = kind_of(entry["dtype"])
    if len(entry["values"]) * kind.itemsize > MOST_BYTES:
        raise ValueError(f"an array cannot have more than {MOST_BYTES:,} bytes")
    return np.array(entry["values"]).astype(kind).reshape(entry["shape"])


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
