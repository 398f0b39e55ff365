"""Between protocol messages and checked tensors.

Every limit is checked on Python integers and on the length of what arrived, before an array is made, so what a
request costs goes by its own bytes: raw contents are used where they lie, floats in typed contents are copied a few
times, and of integers, booleans and strings, of which each costs many times its bytes, there are only so many.
Layout: Open Inference Protocol v2, "Tensor Data".
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sidecar._pb import open_inference_pb2 as pb
from sidecar.errors import InvalidInputError
from sidecar.server.classification import RANKED, classify
from sidecar.types import DATATYPES, InferReply, InferRequest, Parameter, Servable, Tensor, TensorSpec

CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Datatype -> the field of InferTensorContents for it; FP16 and BF16 have none and travel raw only."""

MAX_ELEMENTS = 2**31 - 1
"""More values than the largest gRPC message has bytes."""

SHARED_MEMORY = "shared_memory_region"
"""Tensor parameter that `server/memory.py` takes out where it is allowed. What is left of it is refused."""

MAX_STRINGS = 2**17
"""Most values of a BYTES input: each becomes an object, and its bytes may be none at all."""

MAX_CLASSES = 1024
"""Most classes that a request may ask for of one output."""

_LENGTH = struct.Struct("<I")


def decode(
    message: pb.ModelInferRequest, servable: Servable, *, id: str, deadline: float | None
) -> InferRequest:
    """Check `message` against the servable's inputs and requested outputs.

    Arrays of raw contents are read-only views of the message's bytes.
    Raises InvalidInputError saying what was wrong and what is allowed.
    """
    specs = {spec.name: spec for spec in servable.inputs}
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidInputError(
            f"raw_input_contents has {len(raw)} entries for {len(message.inputs)} inputs, must have one each"
        )
    found: dict[str, Tensor] = {}
    for position, entry in enumerate(message.inputs):
        name = entry.name
        spec = specs.get(name)
        if spec is None:
            raise InvalidInputError(f"no input {name!r}, the model takes {_names(servable.inputs)}")
        if name in found:
            raise InvalidInputError(f"input {name!r} is given twice, must be given once")
        shape = _checked_shape(entry, spec, servable.max_rows)
        _refuse_shared_memory(entry, "input")
        if not raw:
            found[name] = Tensor(spec.datatype, _from_contents(entry, spec.datatype, shape))
        elif entry.HasField("contents"):
            raise InvalidInputError(
                f"input {name!r} has contents beside raw_input_contents, must come one way only"
            )
        else:
            found[name] = Tensor(spec.datatype, from_raw(raw[position], spec.datatype, shape, name))
    if missing := [name for name in specs if name not in found]:
        raise InvalidInputError(
            f"missing input {_quoted(missing)}, the model takes {_names(servable.inputs)}"
        )
    check_requested(message, servable)
    return InferRequest(
        id=id,
        inputs=found if len(found) == 1 else {name: found[name] for name in specs},
        rows=_common_rows(found) if servable.max_rows else 1,
        parameters={name: parameter(name, value) for name, value in message.parameters.items()}
        if message.parameters
        else {},
        deadline=deadline,
        message_bytes=message.ByteSize(),
    )


def encode(
    reply: InferReply, message: pb.ModelInferRequest, servable: Servable, *, id: str
) -> pb.ModelInferResponse:
    """The reply to `message`, always raw: the outputs it asked for in its order, all when it named none."""
    response = pb.ModelInferResponse(model_name=servable.name, model_version=servable.version, id=id)
    ranked = classes(message)
    for name in [entry.name for entry in message.outputs] or reply.outputs:
        tensor = reply.outputs[name]
        if name in ranked:
            labels = next(spec.labels for spec in servable.outputs if spec.name == name)
            tensor = classify(tensor, ranked[name], labels, batched=servable.max_rows > 0)
        response.outputs.add(name=name, datatype=tensor.datatype, shape=tensor.array.shape)
        response.raw_output_contents.append(to_raw(tensor))
    return response


def classes(message: pb.ModelInferRequest) -> dict[str, int]:
    """How many classes are asked for of which outputs, instead of their values; usually of none."""
    return {
        entry.name: entry.parameters["classification"].int64_param
        for entry in message.outputs
        if "classification" in entry.parameters
    }


def check_requested(message: pb.ModelInferRequest, servable: Servable) -> None:
    """Refuse outputs the model does not have before it runs for nothing. Raises InvalidInputError."""
    if not message.outputs:
        return
    known = {spec.name: spec.datatype for spec in servable.outputs}
    asked: set[str] = set()
    for entry in message.outputs:
        if entry.name not in known:
            raise InvalidInputError(f"no output {entry.name!r}, the model gives {_names(servable.outputs)}")
        if entry.name in asked:
            raise InvalidInputError(f"output {entry.name!r} is asked for twice, must be asked for once")
        asked.add(entry.name)
        _refuse_shared_memory(entry, "output")
        if "classification" in entry.parameters:
            if not 1 <= entry.parameters["classification"].int64_param <= MAX_CLASSES:
                raise InvalidInputError(f"classification of {entry.name!r} must be 1..{MAX_CLASSES} classes")
            if known[entry.name] not in RANKED:
                raise InvalidInputError(f"output {entry.name!r} is {known[entry.name]}, which has no order")


def parameter(name: str, value: pb.InferParameter) -> Parameter:
    """The plain Python value. Raises InvalidInputError where none is set."""
    choice = value.WhichOneof("parameter_choice")
    if choice is None:
        raise InvalidInputError(f"parameter {name!r} has no value, must be bool, integer, double or string")
    chosen: Parameter = getattr(value, choice)
    return chosen


def from_raw(raw: bytes, datatype: str, shape: tuple[int, ...], name: str) -> npt.NDArray[Any]:
    """Little-endian row-major bytes as an array of `shape`; `name` is the input's.

    Copies only BYTES. Raises InvalidInputError where length or content does not fit.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        if min(count, len(raw) // _LENGTH.size) > MAX_STRINGS:
            raise InvalidInputError(
                f"input {name!r} has {count} BYTES values, must have at most {MAX_STRINGS}"
            )
        return _objects(_split(raw, count, f"input {name!r}"), shape)
    dtype = DATATYPES[datatype]
    if len(raw) != count * dtype.itemsize:
        raise InvalidInputError(
            f"input {name!r} has {len(raw)} bytes, "
            f"shape {list(shape)} of {datatype} needs {count * dtype.itemsize}"
        )
    if datatype == "BOOL" and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
        raise InvalidInputError(f"input {name!r} has a BOOL byte that is neither 0 nor 1")
    return np.frombuffer(raw, dtype).reshape(shape)


def to_raw(tensor: Tensor) -> bytes:
    """The inverse of `from_raw`."""
    if tensor.datatype != "BYTES":
        return tensor.array.tobytes()
    return b"".join(part for value in tensor.array.flat for part in (_LENGTH.pack(len(value)), value))


def _checked_shape(
    entry: pb.ModelInferRequest.InferInputTensor, spec: TensorSpec, max_rows: int
) -> tuple[int, ...]:
    if entry.datatype != spec.datatype:
        raise InvalidInputError(
            f"input {spec.name!r} has datatype {entry.datatype!r}, must be {spec.datatype}"
        )
    shape = tuple(entry.shape)
    first = 1 if max_rows else 0
    # Most models allow one shape, and comparing that is quick.
    trailing = shape[first:]
    if len(shape) != len(spec.shape) or (
        (trailing != spec.shape[first:] or -1 in trailing) and not _fits(trailing, spec, first)
    ):
        allowed = [-1] * first + list(spec.shape[first:])
        raise InvalidInputError(
            f"input {spec.name!r} has shape {list(shape)}, must be {allowed} where -1 is any size from 0"
        )
    if max_rows and not 1 <= shape[0] <= max_rows:
        raise InvalidInputError(f"input {spec.name!r} has {shape[0]} rows, must have 1..{max_rows}")
    if math.prod([size or 1 for size in shape]) > MAX_ELEMENTS:
        raise InvalidInputError(
            f"input {spec.name!r} has shape {list(shape)}, must have at most {MAX_ELEMENTS} values"
        )
    return shape


def _fits(trailing: tuple[int, ...], spec: TensorSpec, first: int) -> bool:
    return all(
        size >= 0 and allowed in (-1, size)
        for size, allowed in zip(trailing, spec.shape[first:], strict=True)
    )


def _from_contents(
    entry: pb.ModelInferRequest.InferInputTensor, datatype: str, shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    name = f"input {entry.name!r}"
    field = CONTENTS.get(datatype)
    if field is None:
        raise InvalidInputError(f"{name} is {datatype}, which must come in raw_input_contents")
    if others := [other.name for other, _ in entry.contents.ListFields() if other.name != field]:
        raise InvalidInputError(f"{name} is {datatype} and has {_quoted(others)}, must have {field} only")
    values = getattr(entry.contents, field)
    if len(values) != math.prod(shape):
        raise InvalidInputError(
            f"{name} has {len(values)} values in {field}, shape {list(shape)} needs {math.prod(shape)}"
        )
    if datatype == "BYTES":
        return _objects(list(values), shape)
    dtype = DATATYPES[datatype]
    if dtype.kind not in "iu":
        return _as_written(field, values, dtype).reshape(shape)
    wide = np.fromiter(values, np.uint64 if dtype.kind == "u" else np.int64, len(values))
    limits = np.iinfo(dtype)
    if wide.size and (wide.min() < limits.min or wide.max() > limits.max):
        raise InvalidInputError(f"{name} has a value outside {datatype}, {limits.min}..{limits.max}")
    return wide.astype(dtype, copy=False).reshape(shape)


def _as_written(field: str, values: Sequence[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Floats and booleans as protobuf writes them, one after the other as they lie in an array; one by one they would
    take ten times as long.
    """
    alone = pb.InferTensorContents()
    getattr(alone, field).MergeFrom(values)
    written = alone.SerializeToString()
    return np.frombuffer(written, dtype, len(values), len(written) - len(values) * dtype.itemsize)


def _split(raw: bytes, count: int, name: str) -> list[bytes]:
    values: list[bytes] = []
    position = 0
    for _ in range(count):
        start = position + _LENGTH.size
        position = start + _LENGTH.unpack_from(raw, position)[0] if start <= len(raw) else start
        if position > len(raw):
            raise InvalidInputError(
                f"{name} ends inside BYTES value {len(values)} of {count}, "
                "each must be its length in 4 bytes and then that many bytes"
            )
        values.append(raw[start:position])
    if position != len(raw):
        raise InvalidInputError(f"{name} has {len(raw) - position} bytes after its {count} BYTES values")
    return values


def _objects(values: list[bytes], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array.reshape(shape)


def _common_rows(inputs: Mapping[str, Tensor]) -> int:
    rows: dict[str, int] = {name: tensor.array.shape[0] for name, tensor in inputs.items()}
    if len(rows) > 1 and len(set(rows.values())) > 1:
        sizes = ", ".join(f"{name!r} has {size}" for name, size in rows.items())
        raise InvalidInputError(f"all inputs must have the same number of rows: {sizes}")
    return next(iter(rows.values()))


def _refuse_shared_memory(entry: Any, role: str) -> None:
    if SHARED_MEMORY in entry.parameters:
        raise InvalidInputError(
            f"{role} {entry.name!r} has parameter {SHARED_MEMORY!r}, which is not supported"
        )


def _names(specs: Sequence[TensorSpec]) -> str:
    return _quoted([spec.name for spec in specs])


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
