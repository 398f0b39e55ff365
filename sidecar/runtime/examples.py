"""Made-up requests, for the runs that a model makes before the first real one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sidecar.types import DATATYPES, Tensor, TensorSpec

UNKNOWN_SIZE = 8
"""Not 1, which compilers take for a constant."""


def example(
    inputs: Sequence[TensorSpec], rows: int, length: int = UNKNOWN_SIZE, *, batched: bool
) -> dict[str, Tensor]:
    """Standard normal floats, zeros elsewhere, nothing masked; the same at each call. Unknown sizes are `length`."""
    random = np.random.default_rng(0)
    batch = {}
    for spec in inputs:
        shape = tuple(length if size < 0 else size for size in spec.shape)
        if batched and spec.shape[:1] == (-1,):
            shape = (rows, *shape[1:])
        if spec.datatype == "BF16":
            # The upper half of a float32 is the bfloat16 below it.
            values = (random.standard_normal(shape, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        elif spec.datatype.startswith("FP"):
            values = random.standard_normal(shape).astype(DATATYPES[spec.datatype])
        elif spec.name == "attention_mask":
            values = np.ones(shape, DATATYPES[spec.datatype])
        else:
            values = np.zeros(shape, DATATYPES[spec.datatype])
        batch[spec.name] = Tensor(spec.datatype, values)
    return batch
