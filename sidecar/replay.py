"""Runs inputs that were kept once more, to see what a layer does with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from sidecar.capture import Placement, Reservoir, as_rows
from sidecar.errors import InferenceError, ModelError
from sidecar.runtime import Runtime, concatenate
from sidecar.runtime.trial import MODEL_FAULTS
from sidecar.types import KeptInput, Tap


class Replay:
    """A `types.Replay` of one model version. Requests run beside it, on other variants of the model.

    batched, near_zero, words: as there.
    """

    def __init__(
        self,
        runtime: Runtime,
        plan: Sequence[Placement],
        reservoir: Reservoir,
        *,
        batched: bool,
        near_zero: float,
        words: Mapping[int, str],
    ) -> None:
        self.batched, self.near_zero, self.words = batched, near_zero, words
        self._runtime, self._reservoir = runtime, reservoir
        self._channel_dims = {placement.tap: placement.channel_dim for placement in plan}

    @property
    def passed_over(self) -> int:
        return self._reservoir.passed_over

    def kept(self) -> Sequence[KeptInput]:
        return self._reservoir.kept()

    def activation(self, tap: Tap, kept: KeptInput) -> npt.NDArray[np.float32]:
        rows = kept.rows if self.batched else 1
        try:
            # A model may change its inputs in place, and what is kept must stay as it came.
            given = concatenate([kept.inputs])
            found = [
                as_rows(x, self._channel_dims[tap]).reshape(rows, -1, tap.channels)
                for x in self._runtime.activations(tap.module, given)
            ]
        except (InferenceError, *MODEL_FAULTS) as error:
            raise ModelError(f"an input that was kept cannot be run again: {error}") from error
        if not found:
            raise ModelError(f"{tap.module} did not run on an input that was kept")
        values: npt.NDArray[np.float32] = torch.cat(found, dim=1).numpy()
        return values
