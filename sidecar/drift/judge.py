"""Everything that evidence needs of a reference, and the evidence itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sidecar.drift.classes import ClassShares
from sidecar.drift.direction import HORIZONS, Direction
from sidecar.drift.evidence import EDetector
from sidecar.drift.ranks import Integers
from sidecar.drift.scores import Scorer, flat
from sidecar.sketch import OutputRows

Array = npt.NDArray[np.float64]


class Judge:
    """Requests in, evidence out. Layers: the taps, the output and its classes where it is a classifier, the direction.

    detector: the evidence so far.
    """

    def __init__(
        self,
        rows: Array,
        outputs: OutputRows | None,
        strata: Integers,
        number: int,
        run_length: float,
        *,
        by_class: bool = False,
        distances: Array | None = None,
    ) -> None:
        """rows: float64[taps, m, 6], outputs and strata (int64[m], below `number`): of the reference's common requests.

        distances: float64[taps, m], of the same; see `Scorer`.

        by_class: strata are predicted classes, so their shares say nothing.
        """
        self._scorer = Scorer(rows, outputs, strata, number, distances)
        self._direction = Direction(
            self._scorer.reference, self._scorer.covariance, self._scorer.reference_strata, number
        )
        shares = ClassShares.of(outputs, strata, number) if outputs and not by_class else None
        sizes = np.concatenate([self._scorer.ranks.sizes, self._direction.sizes], axis=1)
        self.detector = EDetector([*self._scorer.kinds, len(HORIZONS)], run_length, sizes, shares)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What `resume` goes on from."""
        return {**self.detector.state(), **self._direction.state()}

    def resume(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Raises KeyError or ValueError where `state` is of something else."""
        self.detector.resume(state)
        self._direction.resume(state)

    def update(
        self,
        rows: Array,
        outputs: OutputRows | None,
        strata: Integers,
        rng: np.random.Generator,
        distances: Array | None = None,
    ) -> Array:
        """The model's R after each request, float64[n]. rows: float64[taps, n, 6]; see `Scorer`."""
        z = self._scorer.normal_scores(rows, outputs, strata, rng, distances)
        along = np.full((len(z), 1, z.shape[2]), np.nan)
        along[:, :, : len(HORIZONS)] = self._direction.normal_scores(flat(z), strata, rng)
        return self.detector.update(
            np.concatenate([z, along], axis=1), strata, outputs.predicted if outputs else None
        )
