"""Per-request scalars, the unit of every statistical test, and what one drain brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidecar.errors import SketchError
from sidecar.sketch.tap import TapSketch
from sidecar.types import Tap

ROW_STATISTICS = ("mean", "rms", "absmax", "near_zero_share", "kurtosis", "nonfinite")


@dataclass(frozen=True, slots=True, eq=False)
class RequestRows:
    """values: float64[n, 6], one row a sampled request, columns as in ROW_STATISTICS.

    `nonfinite` counts NaN and infinities; the other columns are over the finite values. A request that
    did not reach the tap has NaN in every column.
    """

    values: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(ROW_STATISTICS):
            raise SketchError(f"request rows are [n, {len(ROW_STATISTICS)}], not {self.values.shape}")

    @classmethod
    def empty(cls) -> RequestRows:
        return cls(np.empty((0, len(ROW_STATISTICS))))

    @classmethod
    def concat(cls, parts: Sequence[RequestRows]) -> RequestRows:
        return cls(np.concatenate([part.values for part in parts])) if parts else cls.empty()

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


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What one drain brings.

    at: seconds since the epoch. rows: row i is the same request at every tap.
    requests: sampled requests that finished since the last drain.
    """

    at: float
    sketches: Mapping[Tap, TapSketch]
    rows: Mapping[Tap, RequestRows]
    requests: int
