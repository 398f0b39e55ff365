"""Triton's classification extension: an output as its highest values and where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sidecar.types import Tensor

RANKED = frozenset(
    f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)
) | {"FP16", "BF16", "FP32", "FP64"}  # fmt: skip
"""Datatypes whose values can be ranked."""


def classify(tensor: Tensor, count: int, labels: Sequence[str] = (), *, batched: bool) -> Tensor:
    """The `count` highest values of each row, highest first, as BYTES "value:index"; fewer where there are fewer.

    An index that has a label which is not empty is followed by it, "value:index:label".

    Shape [rows, count], or [count] where the model does not batch; index counts the values of a row in row-major
    order. Equal values come in the order of their index, NaN behind all others. Values have six decimals, integers
    none, as Triton writes them.
    """
    values = _values(tensor)
    rows = values.reshape(len(values), -1) if batched else values.reshape(1, -1)
    taken = min(count, rows.shape[1])
    found = np.empty((len(rows), taken), np.object_)
    for row, scores in enumerate(rows):
        for rank, index in enumerate(_highest_first(scores)[:taken]):
            score = scores[index]
            text = f"{score:f}" if scores.dtype.kind == "f" else f"{score:d}"
            label = f":{labels[index]}" if index < len(labels) and labels[index] else ""
            found[row, rank] = f"{text}:{index}{label}".encode()
    return Tensor("BYTES", found if batched else found[0])


def _values(tensor: Tensor) -> npt.NDArray[Any]:
    if tensor.datatype == "BF16":
        return (tensor.array.astype(np.uint32) << 16).view(np.float32)
    return tensor.array


def _highest_first(scores: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Indices by falling value. Sorting backwards keeps equal values in order without negating any."""
    index = np.arange(len(scores))[::-1]
    keys: tuple[npt.NDArray[Any], ...] = (scores[::-1],)
    if scores.dtype.kind == "f":
        # The last key is the first to count: NaN below everything.
        keys = (np.nan_to_num(scores[::-1], nan=0.0, posinf=np.inf, neginf=-np.inf), ~np.isnan(scores[::-1]))
    return index[np.lexsort(keys)[::-1]]
