"""What a classifier answered to each sampled request: a few numbers made of its logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sidecar.capture.layout import ENERGY, LOGIT_SUMS, MARGIN, OUTPUT_ROWS
from sidecar.errors import ConfigError
from sidecar.sketch import OutputRows
from sidecar.types import Tensor, TensorSpec

Array = npt.NDArray[Any]

LOGITS = "logits"
"""An output of this name is taken for class logits unless the settings say otherwise."""

MOST_PROJECTIONS = 64
_FLOATS = ("FP16", "BF16", "FP32", "FP64")


def logits_among(outputs: Sequence[TensorSpec], named: str | None) -> TensorSpec | None:
    """The output that holds class logits [rows, classes]; None without one.

    named: what the settings say, None to go by the name `logits`, "" for none.
    Raises ConfigError where the settings name an output that can hold none.
    """
    wanted = LOGITS if named is None else named
    for spec in outputs:
        if spec.name == wanted and len(spec.shape) == 2 and spec.shape[1] > 1 and spec.datatype in _FLOATS:
            return spec
    if named:
        raise ConfigError(f"logits is {named!r}, must be an output of floats with shape [-1, classes]")
    return None


class Outputs:
    """Sums by slot, in two banks, of one output.

    bucket, sign: class c is added to projection bucket[c] with that sign; with up to 64 classes each has its own.
    """

    def __init__(self, spec: TensorSpec, slots: int) -> None:
        # Here, because a process without such an output, as on a GPU, needs no numba.
        from sidecar.capture.logits_cpu import add

        self._add = add
        classes = spec.shape[1]
        self._name = spec.name
        self._width = min(classes, MOST_PROJECTIONS)
        self._bucket = np.arange(classes) % self._width
        self._sign = np.ones(classes)
        if classes > self._width:
            # The same projection in every process, so that references can be compared.
            rng = np.random.default_rng(classes)
            self._bucket = rng.permutation(self._bucket)
            self._sign = rng.choice([-1.0, 1.0], classes)
        self._slots = np.zeros((2, slots, LOGIT_SUMS + self._width))
        self._predicted = np.full((2, slots), -1, dtype=np.int64)

    def add(self, outputs: Mapping[str, Tensor], row_slot: Array, bank: int) -> None:
        """row_slot: int32[rows or more], the slot of each row of the batch, negative where it has none."""
        tensor = outputs[self._name]
        logits = tensor.array
        if tensor.datatype == "BF16":
            logits = (logits.astype(np.uint32) << 16).view(np.float32)
        if len(logits) > len(row_slot):
            raise ValueError(f"output {self._name} has {len(logits)} rows, the batch {len(row_slot)} at most")
        if logits.dtype == np.float16:
            logits = logits.astype(np.float32)
        self._add(logits, row_slot, self._bucket, self._sign, self._slots[bank], self._predicted[bank])

    def take(self, bank: int, used: int) -> OutputRows:
        """What the first `used` slots of a bank saw; they are empty afterwards."""
        sums = self._slots[bank, :used]
        with np.errstate(invalid="ignore", divide="ignore"):
            means = sums / sums[:, OUTPUT_ROWS, None]
        broken = (sums[:, OUTPUT_ROWS] > 0) & ~np.isfinite(means).all(axis=1)
        means[broken] = np.inf
        predicted = self._predicted[bank, :used].copy()
        self._slots[bank, :used] = 0.0
        self._predicted[bank, :used] = -1
        return OutputRows(means[:, ENERGY], means[:, MARGIN], predicted, means[:, LOGIT_SUMS:])
