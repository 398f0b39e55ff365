"""Everything kept about the values that passed one tap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sidecar.sketch import wire
from sidecar.sketch.channels import Channels
from sidecar.sketch.counts import Counts
from sidecar.sketch.formats import FLOAT16, headroom
from sidecar.sketch.histogram import BINS, Histogram, bin_index
from sidecar.sketch.moments import Moments

OUTLIER = 6.0
MASSIVE = 100.0
MASSIVE_OVER_MEDIAN = 1000.0


@dataclass(slots=True, eq=False)
class TapSketch:
    """Mergeable summary of a tap's values; its size does not depend on how many there were."""

    counts: Counts
    moments: Moments
    histogram: Histogram
    channels: Channels

    @classmethod
    def empty(cls, channels: int) -> TapSketch:
        return cls(Counts(), Moments.empty(), Histogram.empty(), Channels.empty(channels))

    @classmethod
    def from_array(cls, x: npt.NDArray[Any], near_zero: float, requests: int) -> TapSketch:
        """Sketch of x, float16 or float32 [..., C], computed the plain way in float64.

        The definition that every fast implementation is tested against. `near_zero`: |x| at or below it
        is near zero and does not fire.
        """
        rows = x.reshape(-1, x.shape[-1])
        finite = np.isfinite(rows)
        wide = np.where(finite, rows, 0).astype(np.float64)
        magnitude = np.abs(wide)
        seen = wide[finite]
        mean = float(seen.mean()) if seen.size else 0.0
        centred = seen - mean
        keys = np.where(seen == 0, BINS - 1, bin_index(np.where(seen == 0, 1, seen).astype(np.float32)))
        fires = magnitude > near_zero
        outliers = magnitude >= OUTLIER
        return cls(
            counts=Counts(
                values=rows.size,
                zeros=int(np.count_nonzero(rows == 0)),
                near_zeros=int(np.count_nonzero(finite & ~fires)),
                nan=int(np.count_nonzero(np.isnan(rows))),
                pos_inf=int(np.count_nonzero(np.isposinf(rows))),
                neg_inf=int(np.count_nonzero(np.isneginf(rows))),
                subnormals=int(np.count_nonzero((magnitude > 0) & (magnitude < np.finfo(x.dtype).tiny))),
                outliers=int(np.count_nonzero(outliers)),
                positions=rows.shape[0],
                requests=requests,
            ),
            moments=Moments(
                n=seen.size,
                mean=mean,
                m2=float(np.sum(centred**2)),
                m3=float(np.sum(centred**3)),
                m4=float(np.sum(centred**4)),
                minimum=float(seen.min(initial=math.inf)),
                maximum=float(seen.max(initial=-math.inf)),
            ),
            histogram=Histogram(np.bincount(keys, minlength=BINS).astype(np.int64)),
            channels=Channels(
                positions=rows.shape[0],
                fires=np.count_nonzero(fires, axis=0).astype(np.int64),
                total=wide.sum(axis=0),
                squares=(wide**2).sum(axis=0),
                absmax=magnitude.max(axis=0, initial=0.0),
                outliers=np.count_nonzero(outliers, axis=0).astype(np.int64),
            ),
        )

    def merge(self, other: TapSketch) -> None:
        """Add `other`, which stays as it was. Raises SketchError, and changes nothing, on other widths."""
        self.channels.merge(other.channels)
        self.counts.merge(other.counts)
        self.moments.merge(other.moments)
        self.histogram.merge(other.histogram)

    def copy(self) -> TapSketch:
        return TapSketch(self.counts.copy(), self.moments.copy(), self.histogram.copy(), self.channels.copy())

    def to_bytes(self) -> bytes:
        """Versioned, with a checksum; `from_bytes` gives back an equal sketch."""
        return wire.pack(self.counts, self.moments, self.histogram, self.channels)

    @classmethod
    def from_bytes(cls, stored: bytes) -> TapSketch:
        """Raises SketchError when the bytes are damaged, cut short, or no sketch at all."""
        return cls(*wire.unpack(stored))

    def __eq__(self, other: object) -> bool:
        return self.to_bytes() == other.to_bytes() if isinstance(other, TapSketch) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    @property
    def zero_share(self) -> float:
        return self._share(self.counts.zeros)

    @property
    def near_zero_share(self) -> float:
        return self._share(self.counts.near_zeros)

    @property
    def outlier_share(self) -> float:
        return self._share(self.counts.outliers)

    @property
    def absmax(self) -> float:
        return self.moments.absmax

    @property
    def kurtosis(self) -> float:
        return self.moments.kurtosis

    @property
    def crest(self) -> float:
        """Crest factor absmax / rms; NaN where all values are 0."""
        rms = self.moments.rms
        return self.absmax / rms if rms > 0 else math.nan

    @property
    def float16_headroom(self) -> float:
        """Doublings left before float16 overflows, log2(65504 / absmax); +inf where all values are 0."""
        return headroom(self.absmax, FLOAT16)

    def massive(self) -> npt.NDArray[np.bool_]:
        """bool[C]: |x| above 100 and at least 1,000 times the median of |x|; Sun 2024, arXiv 2402.17762."""
        absmax = self.channels.absmax
        # Nothing is at least NaN, the median without values.
        return (absmax > MASSIVE) & (absmax >= MASSIVE_OVER_MEDIAN * self.histogram.median_magnitude)

    def _share(self, count: int) -> float:
        return count / self.counts.values if self.counts.values else math.nan
