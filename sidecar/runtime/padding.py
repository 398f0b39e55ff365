"""Requests of different lengths in one batch: inputs are filled up to a bucket, and outputs cut back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sidecar.errors import InferenceError
from sidecar.runtime import Empty, join, new
from sidecar.types import InferRequest, Ragged, Tensor


def pad(requests: Sequence[InferRequest], ragged: Ragged, empty: Empty = new) -> dict[str, Tensor]:
    """The inputs of requests of one bucket as one batch, of that length; always a copy."""
    nothing = all(request.length == request.bucket for request in requests)
    return {
        name: join([request.inputs[name] for request in requests], name, empty)
        if nothing or name not in ragged.inputs
        else _padded(requests, name, ragged, empty)
        for name in requests[0].inputs
    }


def _padded(requests: Sequence[InferRequest], name: str, ragged: Ragged, empty: Empty) -> Tensor:
    dimension, first = ragged.inputs[name], requests[0].inputs[name]
    shape = list(first.array.shape)
    shape[0], shape[dimension] = sum([request.rows for request in requests]), requests[0].bucket
    joined = empty(name, shape, first.array.dtype)
    joined.fill(ragged.pad_values[name])
    along = joined.swapaxes(1, dimension)
    start = 0
    for request in requests:
        end = start + request.rows
        along[start:end, : request.length] = request.inputs[name].array.swapaxes(1, dimension)
        start = end
    return Tensor(first.datatype, joined)


def cut(outputs: Mapping[str, Tensor], length: int, ragged: Ragged) -> dict[str, Tensor]:
    """`outputs` of one request, without what belongs to its padding; views."""
    return {
        name: Tensor(tensor.datatype, tensor.array.swapaxes(1, dim)[:, :length].swapaxes(1, dim))
        if (dim := ragged.outputs.get(name))
        else tensor
        for name, tensor in outputs.items()
    }


def check(outputs: Mapping[str, Tensor], length: int, ragged: Ragged) -> None:
    """Raises InferenceError for an output whose size of -1 is something else than the `length` of the inputs."""
    for name, dimension in ragged.outputs.items():
        shape = outputs[name].array.shape
        if shape[dimension : dimension + 1] != (length,):
            raise InferenceError(
                f"output {name} has shape {list(shape)} for inputs of length {length}: "
                "with batching.ragged_buckets its size of -1 must be the length of the inputs"
            )
