"""Energy, margin and projected logits of a classifier's output, added up by request, compiled by numba."""

# mypy: ignore-errors
# numba compiles a language that only looks like typed Python.
from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from sidecar.capture.layout import ENERGY, LOGIT_SUMS, MARGIN, OUTPUT_ROWS

# numba knows compiled code by the text of this file alone: a hash of what else goes into it, which a test holds.
COMPILED_WITH = "cc53370cf54f9ba0"

Array = npt.NDArray[Any]


@njit(cache=True, nogil=True)
def add(logits: Array, row_slot: Array, bucket: Array, sign: Array, slots: Array, predicted: Array) -> None:
    """logits [rows, classes]; row r is added to slots[row_slot[r]]: energy, margin, 1, then its projections.

    predicted[row_slot[r]] becomes the class of its largest logit.
    """
    for row in range(len(logits)):
        slot = row_slot[row]
        if slot < 0:
            continue
        first, second, largest = -np.inf, -np.inf, 0
        for index in range(logits.shape[1]):
            value = np.float64(logits[row, index])
            if value > first:
                first, second, largest = value, first, index
            elif value > second:
                second = value
        total = 0.0
        for index in range(logits.shape[1]):
            value = np.float64(logits[row, index])
            total += np.exp(value - first)
            slots[slot, LOGIT_SUMS + bucket[index]] += sign[index] * value
        slots[slot, ENERGY] += first + np.log(total)
        slots[slot, MARGIN] += first - second
        slots[slot, OUTPUT_ROWS] += 1.0
        predicted[slot] = largest
