"""NaN and infinities in what clients send: counted always, refused where the model's settings say so."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sidecar.errors import InvalidInputError
from sidecar.types import InferRequest, Servable, ServingObserver, Tensor

BF16_EXPONENT = np.uint16(0x7F80)


def examine(request: InferRequest, servable: Servable, observer: ServingObserver) -> None:
    """Count the values of `request` that are not finite. Raises InvalidInputError where the model takes none."""
    for name, tensor in request.inputs.items():
        if count := nonfinite(tensor):
            observer.input_nonfinite(servable.name, servable.version, count)
            if servable.refuse_nonfinite:
                raise InvalidInputError(
                    f"input {name!r} has {count} values that are NaN or infinite, all must be finite"
                )


def nonfinite(tensor: Tensor) -> int:
    """How many values are NaN or infinite; 0 for datatypes that have no such values."""
    array: npt.NDArray[Any] = tensor.array
    if tensor.datatype == "BF16":
        return int(np.count_nonzero((array & BF16_EXPONENT) == BF16_EXPONENT))
    return array.size - int(np.count_nonzero(np.isfinite(array))) if array.dtype.kind == "f" else 0
