"""Per-request scalars, the unit of every statistical test, and what one drain brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sidecar.errors import SketchError
from sidecar.sketch.distinct import mixed
from sidecar.sketch.peaks import Peaks
from sidecar.sketch.tap import TapSketch
from sidecar.types import Parameter, Tap, TracedOutlier

ROW_STATISTICS = ("mean", "rms", "absmax", "near_zero_share", "kurtosis", "nonfinite")

_TINY = 1e-30
_STEPS = 256
_FAR = 1e6


@dataclass(frozen=True, slots=True, eq=False)
class RequestRows:
    """values: float64[n, 6], one row a sampled request, columns as in ROW_STATISTICS.

    `nonfinite` counts NaN and infinities; the other columns are over the finite values. A request that
    did not reach the tap has NaN in every column.
    weights: float64[n], how many requests each stands for: 1 / (probability that it was sampled); 1 if not
    given. A mean over requests is weighted by them (Horvitz and Thompson, JASA 47, 1952).
    common: bool[n], sampled at the rate that held for all requests of its moment; true if not given. Only
    these have the mix of the traffic, and may be compared one by one with those of another time.
    projections: float32[n, p], `project` of the mean of each channel over the request's positions; infinite where it
    is not finite, p is 0 where none were taken.
    """

    values: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64] = field(default_factory=lambda: np.ones(1))
    common: npt.NDArray[np.bool_] = field(default_factory=lambda: np.ones(1, dtype=np.bool_))
    projections: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty((1, 0), np.float32))

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(ROW_STATISTICS):
            raise SketchError(f"request rows are [n, {len(ROW_STATISTICS)}], not {self.values.shape}")
        for name in ("weights", "common"):
            given = getattr(self, name)
            if given.shape not in ((1,), (len(self),)):
                raise SketchError(f"{name} of {len(self)} request rows are [{len(self)}], not {given.shape}")
            object.__setattr__(self, name, np.broadcast_to(given, len(self)))
        width = self.projections.shape[-1]
        if self.projections.shape not in ((1, 0), (len(self), width)):
            raise SketchError(f"{self.projections.shape} are no projections of {len(self)} request rows")
        object.__setattr__(self, "projections", np.broadcast_to(self.projections, (len(self), width)))

    @classmethod
    def empty(cls) -> RequestRows:
        return cls(np.empty((0, len(ROW_STATISTICS))))

    @classmethod
    def concat(cls, parts: Sequence[RequestRows]) -> RequestRows:
        if not parts:
            return cls.empty()
        width = max(part.projections.shape[1] for part in parts)
        return cls(
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.weights for part in parts]),
            np.concatenate([part.common for part in parts]),
            np.concatenate([part.projected(width) for part in parts]),
        )

    def projected(self, width: int) -> npt.NDArray[np.float32]:
        """The projections, float32[n, width]; NaN where none were taken."""
        if self.projections.shape[1] == width:
            return self.projections
        return np.full((len(self), width), np.nan, np.float32)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        return self.values[:, 0]

    @property
    def rms(self) -> npt.NDArray[np.float64]:
        return self.values[:, 1]

    @property
    def absmax(self) -> npt.NDArray[np.float64]:
        return self.values[:, 2]

    @property
    def near_zero_share(self) -> npt.NDArray[np.float64]:
        return self.values[:, 3]

    @property
    def kurtosis(self) -> npt.NDArray[np.float64]:
        return self.values[:, 4]

    @property
    def nonfinite(self) -> npt.NDArray[np.float64]:
        return self.values[:, 5]


def patterns(projections: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """A hash of the firing pattern of each request at a tap: projections [n, p] -> uint64[n].

    The pattern says on which side of 0 each projection lies. Two requests differ there in a share of the projections
    that is the angle between their channel means, as a share of a half turn (Charikar, STOC 2002).
    """
    return mixed(np.packbits(projections > 0, axis=1).astype(np.int64))


def signatures(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """A hash of what each request looked like at a tap: row statistics [n, 6] -> uint64[n].

    In place of `patterns` where no projections are taken. Alike are requests that agree in mean / rms and near-zero
    share to a 256th, in rms, absmax and kurtosis to a 256th of a doubling: coarse enough to forgive another order of
    summation, fine enough that two requests rarely agree by chance.
    """
    mean, rms, absmax, near_zero, kurtosis, nonfinite = np.nan_to_num(values).T
    rms, absmax, kurtosis = (np.maximum(part, _TINY) for part in (rms, absmax, kurtosis))
    parts = np.stack([mean / rms, np.log2(rms), np.log2(absmax), near_zero, np.log2(kurtosis)], axis=1)
    steps = np.rint(_STEPS * np.clip(parts, -_FAR, _FAR)).astype(np.int64)
    return mixed(np.column_stack([steps, nonfinite > 0]))


@dataclass(frozen=True, slots=True, eq=False)
class OutputRows:
    """What a classifier answered to each sampled request, averaged over its rows.

    NaN, and -1 for the class, where it did not answer; infinite where it answered with NaN or infinities.
    energy: float64[n], logsumexp of the logits (Liu, Energy-based Out-of-distribution Detection, 2020).
    margin: float64[n], largest logit less the second largest.
    predicted: int64[n], the class of the largest, in its last row.
    logits: float64[n, k], k <= 64: the logits, or where there are more classes a count sketch of them.
    """

    energy: npt.NDArray[np.float64]
    margin: npt.NDArray[np.float64]
    predicted: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.energy)

    def among(self, chosen: npt.NDArray[np.bool_]) -> OutputRows:
        """Those of the requests that are `chosen`, bool[n]."""
        return OutputRows(
            self.energy[chosen], self.margin[chosen], self.predicted[chosen], self.logits[chosen]
        )

    @classmethod
    def concat(cls, parts: Sequence[OutputRows]) -> OutputRows:
        return cls(
            np.concatenate([part.energy for part in parts]),
            np.concatenate([part.margin for part in parts]),
            np.concatenate([part.predicted for part in parts]),
            np.concatenate([part.logits for part in parts]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What one drain brings.

    at: seconds since the epoch. rows: row i is the same request at every tap.
    requests: sampled requests that finished since the last drain.
    ids, parameters: of each of them, as the client gave them; empty where nobody kept them.
    traces: of each of them the id of its client's trace, "" without one; empty where nobody kept them.
    outputs: of each of them; None of a model that is no classifier.
    peaks: empty where nobody kept them.
    """

    at: float
    sketches: Mapping[Tap, TapSketch]
    rows: Mapping[Tap, RequestRows]
    requests: int
    ids: Sequence[str] = ()
    parameters: Sequence[Mapping[str, Parameter]] = ()
    outputs: OutputRows | None = None
    traces: Sequence[str] = ()
    peaks: Mapping[Tap, Peaks] = field(default_factory=dict)

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """float64[requests], as in `RequestRows`."""
        return self._any_rows().weights

    @property
    def common(self) -> npt.NDArray[np.bool_]:
        """bool[requests], as in `RequestRows`."""
        return self._any_rows().common

    def _any_rows(self) -> RequestRows:
        return next(iter(self.rows.values())) if self.rows else RequestRows.empty()

    def traced_outliers(self, threshold: float) -> dict[Tap, TracedOutlier]:
        """Of each tap the request with a trace whose |x| was the largest, where it reached `threshold`."""
        traced = [row for row, trace in enumerate(self.traces) if trace]
        found = {}
        for tap, rows in self.rows.items() if traced else ():
            absmax = np.nan_to_num(rows.absmax[traced], nan=-1.0)
            largest = int(np.argmax(absmax))
            if absmax[largest] >= threshold:
                trace = self.traces[traced[largest]]
                found[tap] = TracedOutlier(trace, float(absmax[largest]), self.at)
        return found

    @property
    def silent(self) -> tuple[Tap, ...]:
        """Taps that saw no position of any of these requests: they fire no more, or were not on the way."""
        return tuple(tap for tap, sketch in self.sketches.items() if not sketch.counts.positions)
