"""Where a request lies in the space of a tap's channel means, of which 32 projections are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sidecar.drift.whitening import Whitened, finite, ledoit_wolf, measure

Array = npt.NDArray[np.float64]
Projections = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class MeanSpace:
    """centres: float32[taps, p]. matrices: float32[taps, p, p], make what is less its centre white.

    NaN for a tap without projections; p is 0 where none has any.
    """

    centres: Projections
    matrices: Projections

    @classmethod
    def fit(cls, projections: Projections) -> MeanSpace:
        """Mean and covariance, shrunk after Ledoit and Wolf, of float32[taps, n, p]; see `RequestRows`."""
        taps, _, width = projections.shape
        centres = np.full((taps, width), np.nan, np.float32)
        matrices = np.full((taps, width, width), np.nan, np.float32)
        for tap in range(taps):
            vectors = finite(projections[tap].astype(np.float64))
            if width and not np.isnan(vectors).all():
                whitened = Whitened.fit(vectors, ledoit_wolf)
                centres[tap], matrices[tap] = whitened.centre, whitened.matrix
        return cls(centres, matrices)

    @classmethod
    def unknown(cls, taps: int) -> MeanSpace:
        return cls.fit(np.empty((taps, 0, 0), np.float32))

    def distances(self, projections: npt.NDArray[Any]) -> Array:
        """Mahalanobis distances, float64[taps, n] of float32[taps, n, p].

        NaN where there is no projection or no centre, infinite where a projection is.
        """
        found = np.full(projections.shape[:2], np.nan)
        if projections.shape[2] == self.centres.shape[1] > 0:
            measure(projections, self.centres, self.matrices, found)
            found[np.isnan(self.centres[:, 0])] = np.nan
        return found

    def arranged(self, order: Sequence[int]) -> MeanSpace:
        return MeanSpace(self.centres[order], self.matrices[order])
