"""Requests of different lengths: which bucket each is padded to."""

from __future__ import annotations

from sidecar.errors import InvalidInputError
from sidecar.types import InferRequest, Ragged


def measure(request: InferRequest, ragged: Ragged) -> None:
    """Note the length of `request` and its bucket. Raises InvalidInputError where its inputs have several lengths."""
    lengths = {name: request.inputs[name].array.shape[dim] for name, dim in ragged.inputs.items()}
    request.length = next(iter(lengths.values()))
    if any(length != request.length for length in lengths.values()):
        sizes = ", ".join(
            f"{name!r} has {length} in dimension {ragged.inputs[name]}" for name, length in lengths.items()
        )
        raise InvalidInputError(f"all sizes of -1 beside the batch must be the same: {sizes}")
    request.bucket = ragged.bucket(request.length)
