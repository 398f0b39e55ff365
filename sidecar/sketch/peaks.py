"""Which requests drove each channel most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidecar.errors import SketchError


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """Of each channel the largest magnitude that a reading brought, and in which request it stood.

    requests: integers[C], which of the reading's requests; -1 for a channel that was 0 everywhere.
    values: float32[C], with their signs.
    """

    requests: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.requests.shape != self.values.shape or self.values.ndim != 1:
            raise SketchError(f"peaks are two arrays [C], not {self.requests.shape} and {self.values.shape}")
