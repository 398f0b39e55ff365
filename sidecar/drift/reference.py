"""What normal looks like: recorded from requests, kept in one file, free of their contents."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sidecar.drift.checked import OUTPUTS, check_arrays, header_of
from sidecar.drift.effects import Cells, Integers, signed_counts
from sidecar.drift.frechet import Gaussians
from sidecar.drift.groups import ROUTE, Groups, class_names, frequent
from sidecar.drift.nodrift import NoDrift, measure
from sidecar.drift.scores import FIT_STRIDE, features, stack_projections, stack_rows
from sidecar.drift.sealed import Sealed
from sidecar.drift.space import MeanSpace, Projections
from sidecar.drift.strata import Labels, labels
from sidecar.drift.weighted import Weighted
from sidecar.errors import BaselineError, SketchError
from sidecar.sketch import OutputRows, Reading, TapSketch
from sidecar.types import Tap

_SEALED = Sealed("baseline", b"sidecar-baseline", 5)
_CHUNKS = 64
_SEED = 0
"""The same requests give the same file."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """sketches, nodrift: one a tap, in the order of `taps`. rows: float64[taps, observed requests, 6].

    weights, common: float64 and bool[observed requests], as in `RequestRows`. Requests are ranked among the common
    ones, which `requests` counts; means are over all, by weight; the sketches count each value once.
    created_at: seconds since the epoch of the last reading in it.
    space, distances: of the channel means, made by every fourth common request; float64[taps, observed requests] in it.
    mean_nodrift: float64[taps, 2, sizes], what `Gaussians.measure` says of that space.
    outputs: what a classifier answered to each of these requests. stratified_by, labels: what their strata are told
    by, and str[observed requests], its value. routes: str[observed requests], as `groups.frequent` leaves them.
    """

    model: str
    version: str
    created_at: float
    taps: tuple[Tap, ...]
    sketches: tuple[TapSketch, ...]
    nodrift: tuple[NoDrift, ...]
    rows: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    common: npt.NDArray[np.bool_]
    space: MeanSpace
    distances: npt.NDArray[np.float64]
    mean_nodrift: npt.NDArray[np.float64]
    outputs: OutputRows | None
    stratified_by: str
    labels: Labels
    routes: Labels

    @property
    def requests(self) -> int:
        return int(np.count_nonzero(self.common))

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """bool[observed requests], those that tell shares of groups: common, and none that chose names for routes."""
        counted = self.common.copy()
        counted[::FIT_STRIDE] = False
        return counted

    @property
    def groups(self) -> Groups:
        return Groups(class_names(self.outputs, len(self.weights)), self.routes)

    def check(self, model: str, taps: Sequence[Tap], stratify_by: str = "") -> None:
        """Raises BaselineError naming what differs. The version may: comparing versions is what it is for."""
        if model != self.model:
            raise BaselineError(f"the baseline was recorded from model {self.model}, not {model}")
        if stratify_by != self.stratified_by:
            raise BaselineError(
                f"the baseline is stratified by {self.stratified_by!r}, drift.stratify_by is {stratify_by!r}"
            )
        theirs, ours = ({tap.key: tap for tap in side} for side in (self.taps, taps))
        if missing := sorted(ours.keys() - theirs.keys()):
            raise BaselineError(f"the baseline has no tap {', '.join(missing)}")
        if extra := sorted(theirs.keys() - ours.keys()):
            raise BaselineError(f"the baseline has tap {', '.join(extra)}, which is not watched")
        for key, tap in ours.items():
            if tap.channels != theirs[key].channels:
                raise BaselineError(
                    f"tap {key} has {tap.channels} channels, in the baseline {theirs[key].channels}"
                )

    def arranged(self, taps: Sequence[Tap]) -> Reference:
        """The same with its taps in the order of `taps`, which `check` has found to be the same ones."""
        keys = [tap.key for tap in self.taps]
        order = [keys.index(tap.key) for tap in taps]
        return replace(
            self,
            taps=tuple(taps),
            sketches=tuple(self.sketches[i] for i in order),
            nodrift=tuple(self.nodrift[i] for i in order),
            rows=self.rows[order],
            space=self.space.arranged(order),
            distances=self.distances[order],
            mean_nodrift=self.mean_nodrift[order],
        )

    def members(self) -> dict[str, npt.NDArray[Any]]:
        """What the file holds, by name: docs/baselines.md says what each is. `of_members` takes them back."""
        header = {
            "model": self.model,
            "version": self.version,
            "created_at": self.created_at,
            "taps": [asdict(tap) for tap in self.taps],
            "stratified_by": self.stratified_by,
        }
        members: dict[str, npt.NDArray[Any]] = {
            "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
            "nodrift": np.array([(tap.mean, tap.level) for tap in self.nodrift]),
            "rows": self.rows,
            "weights": self.weights,
            "common": self.common,
            "centres": self.space.centres,
            "whitening": self.space.matrices,
            "distances": self.distances.astype(np.float32),
            "mean_nodrift": self.mean_nodrift,
            "labels": self.labels,
            "routes": self.routes,
        }
        if self.outputs:
            members |= {f"output_{name}": getattr(self.outputs, name) for name in OUTPUTS}
        for index, sketch in enumerate(self.sketches):
            members[f"sketch{index}"] = np.frombuffer(sketch.to_bytes(), np.uint8)
        return members

    def to_bytes(self) -> bytes:
        """As in a file."""
        return _SEALED.seal(self.members())

    def save(self, path: Path) -> None:
        """Write one file. The old one stays until it is whole. Raises BaselineError when it cannot be written."""
        _SEALED.write(path, self.members())

    @classmethod
    def load(cls, path: Path) -> Reference:
        """Raises BaselineError when the file cannot be read, is damaged, or is something else."""
        return cls.from_bytes(_SEALED.stored(path), str(path))

    @classmethod
    def from_bytes(cls, stored: bytes, named: str) -> Reference:
        """named: what messages call it. Raises BaselineError when it is damaged, or something else."""
        members = _SEALED.unseal(stored, named)
        try:
            return cls.of_members(members)
        except KeyError as error:
            raise BaselineError(f"{named} is damaged: it has no {error}") from error
        except (ValueError, SketchError) as error:
            raise BaselineError(f"{named} is damaged: {error}") from error

    @classmethod
    def of_members(cls, members: Mapping[str, npt.NDArray[Any]]) -> Reference:
        """Raises KeyError, ValueError or SketchError where they are not what `members` gives."""
        header = header_of(members)
        taps = header.watched
        check_arrays(members, len(taps))
        sketches = tuple(TapSketch.from_bytes(members[f"sketch{i}"].tobytes()) for i in range(len(taps)))
        for tap, sketch in zip(taps, sketches, strict=True):
            if len(sketch.channels) != tap.channels:
                raise ValueError(
                    f"tap {tap.key} has {len(sketch.channels)} channels, must have {tap.channels}"
                )
        return cls(
            model=header.model,
            version=header.version,
            created_at=header.created_at,
            taps=taps,
            sketches=sketches,
            nodrift=tuple(NoDrift(tuple(mean), tuple(level)) for mean, level in members["nodrift"].tolist()),
            rows=members["rows"],
            weights=members["weights"],
            common=members["common"],
            space=MeanSpace(members["centres"], members["whitening"]),
            distances=members["distances"].astype(np.float64),
            mean_nodrift=members["mean_nodrift"],
            outputs=OutputRows(*(members[f"output_{name}"] for name in OUTPUTS))
            if f"output_{OUTPUTS[0]}" in members
            else None,
            stratified_by=header.stratified_by,
            labels=members["labels"],
            routes=members["routes"],
        )


class ReferenceBuilder:
    """Gathers readings until `requests_wanted` are in. Whole readings, so it may end with a few more."""

    def __init__(
        self, model: str, version: str, taps: Sequence[Tap], requests_wanted: int, stratify_by: str = ""
    ) -> None:
        self.requests = 0
        self._stratify_by = stratify_by
        self._outputs: list[OutputRows] = []
        self._labels: list[Labels] = []
        self._model, self._version, self._taps = model, version, tuple(taps)
        self._wanted = requests_wanted
        self._created_at = 0.0
        self._sketches = [TapSketch.empty(tap.channels) for tap in self._taps]
        self._rows: list[npt.NDArray[np.float64]] = []
        self._projections: list[Projections] = []
        self._weights: list[npt.NDArray[np.float64]] = []
        self._common: list[npt.NDArray[np.bool_]] = []
        self._routes: list[Labels] = []
        self._chunks = [_Chunks(math.ceil(requests_wanted / _CHUNKS)) for _ in self._taps]

    @property
    def complete(self) -> bool:
        return self.requests >= self._wanted

    def add(self, reading: Reading) -> None:
        for tap, sketch, chunks in zip(self._taps, self._sketches, self._chunks, strict=True):
            if tap in reading.sketches:
                sketch.merge(reading.sketches[tap])
                chunks.add(reading.sketches[tap])
        self._rows.append(stack_rows(reading.rows, self._taps))
        self._projections.append(stack_projections(reading.rows, self._taps))
        self._weights.append(reading.weights)
        self._common.append(reading.common)
        self._labels.append(labels(reading, self._stratify_by))
        if reading.outputs:
            self._outputs.append(reading.outputs)
        self._routes.append(labels(reading, ROUTE))
        self.requests += int(np.count_nonzero(reading.common))
        self._created_at = reading.at

    def build(self) -> Reference:
        """Raises BaselineError without a single request."""
        if not self.requests:
            raise BaselineError("a baseline needs requests, and none was observed")
        rows, weights = np.concatenate(self._rows, axis=1), np.concatenate(self._weights)
        common = np.concatenate(self._common)
        projections = self._projected()
        space = MeanSpace.fit(projections[:, np.flatnonzero(common)[::FIT_STRIDE]])
        others = np.delete(np.flatnonzero(common), slice(None, None, FIT_STRIDE))
        rng = np.random.default_rng(_SEED)
        described = features(rows)
        return Reference(
            model=self._model,
            version=self._version,
            created_at=self._created_at,
            taps=self._taps,
            sketches=tuple(sketch.copy() for sketch in self._sketches),
            nodrift=tuple(
                chunks.nodrift(sketch, Weighted(seen, weights), rng)
                for chunks, sketch, seen in zip(self._chunks, self._sketches, described, strict=True)
            ),
            rows=rows,
            weights=weights,
            common=common,
            space=space,
            # As in a file, so that a reference that was kept gives the same ranks.
            distances=space.distances(projections).astype(np.float32).astype(np.float64),
            mean_nodrift=Gaussians.of(space).measure(projections[:, others], np.random.default_rng(_SEED)),
            outputs=OutputRows.concat(self._outputs) if self._outputs else None,
            stratified_by=self._stratify_by,
            labels=np.concatenate(self._labels),
            routes=frequent(np.concatenate(self._routes)),
        )

    def _projected(self) -> Projections:
        """float32[taps, requests, p]; readings without any have NaN."""
        width = max(part.shape[2] for part in self._projections)
        return np.concatenate(
            [
                part if part.shape[2] == width else np.full((*part.shape[:2], width), np.nan, np.float32)
                for part in self._projections
            ],
            axis=1,
        )


class _Chunks:
    """Histograms of consecutive parts of the reference, at least `least` requests each.

    Kept sparse, about 300 of 4,097 cells, until the cells of equal mass are known.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self._open: Integers | None = None
        self._requests = 0
        self._closed: list[tuple[Integers, Integers, int]] = []

    def add(self, sketch: TapSketch) -> None:
        counts = signed_counts(sketch)
        self._open = counts if self._open is None else self._open + counts
        self._requests += sketch.counts.requests
        if self._requests >= self._least:
            filled = np.flatnonzero(self._open)
            self._closed.append((filled, self._open[filled], self._requests))
            self._open, self._requests = None, 0

    def nodrift(self, sketch: TapSketch, rows: Weighted, rng: np.random.Generator) -> NoDrift:
        whole = signed_counts(sketch)
        chunks = []
        for filled, counts, requests in self._closed:
            dense = np.zeros_like(whole)
            dense[filled] = counts
            chunks.append((dense, requests))
        return measure(Cells.equal_mass(whole), chunks, rows, sketch.moments.stddev, rng)
