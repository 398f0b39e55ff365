"""Everything that evidence needs of a reference, and the evidence itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sidecar.drift.classes import ClassShares
from sidecar.drift.direction import HORIZONS, Direction
from sidecar.drift.evidence import ACROSS, EDetector
from sidecar.drift.ranks import Integers
from sidecar.drift.scores import FIT_STRIDE, Scorer, flat
from sidecar.drift.together import Together
from sidecar.drift.whitening import ledoit_wolf
from sidecar.sketch import OutputRows

Array = npt.NDArray[np.float64]

_SEED = 0
"""The same reference gives the same evidence."""


class Judge:
    """Requests in, evidence out.

    Layers: the taps, the output and its classes where it is a classifier, all of them together, the direction.

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
        z = self._scorer.normal_scores(rows, outputs, strata, np.random.default_rng(_SEED), distances)
        held_out = np.arange(len(z)) % FIT_STRIDE != 0
        fitted, others, among = z[~held_out], z[held_out], strata[held_out]
        self._together = Together(fitted, others, among, number, len(rows))
        directed = flat(fitted)
        covariance = ledoit_wolf(directed - directed.mean(axis=0))
        self._direction = Direction(flat(others), covariance, among, number)
        shares = ClassShares.of(outputs, strata, number) if outputs and not by_class else None
        parts = (self._scorer.ranks, self._together, self._direction)
        kinds = [*self._scorer.kinds, self._together.kinds, len(HORIZONS)]
        sizes = np.concatenate([part.sizes for part in parts], axis=1)
        self.detector = EDetector(kinds, run_length, sizes, shares)

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
        across = np.full((len(z), ACROSS, z.shape[2]), np.nan)
        across[:, :1, : self._together.kinds] = self._together.normal_scores(z, strata, rng)
        across[:, 1:, : len(HORIZONS)] = self._direction.normal_scores(flat(z), strata, rng)
        return self.detector.update(
            np.concatenate([z, across], axis=1), strata, outputs.predicted if outputs else None
        )
