"""Strategies of ModelInfer requests that are right but for a few things, and of bytes that nearly are one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from sidecar._pb import open_inference_pb2 as pb
from sidecar.server import codec
from sidecar.server.wire import varint
from sidecar.types import DATATYPES, Tensor, TensorSpec

Message = pb.ModelInferRequest
Draw = Callable[[st.SearchStrategy[Any]], Any]

INT64 = st.integers(-(2**63), 2**63 - 1)
SIZES = st.sampled_from([0, 1, -1, 2, 3, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63)]) | INT64
WORDS = st.sampled_from(["", "x", "\0", "..", "\U0001f600" * 40, "a" * 3000]) | st.text(max_size=20)
PARAMETERS = st.one_of(
    st.builds(pb.InferParameter),
    st.builds(pb.InferParameter, bool_param=st.booleans()),
    st.builds(pb.InferParameter, int64_param=SIZES),
    st.builds(pb.InferParameter, uint64_param=st.integers(0, 2**64 - 1)),
    st.builds(pb.InferParameter, double_param=st.floats()),
    st.builds(pb.InferParameter, string_param=WORDS),
)
NAMES = st.sampled_from(
    ["timeout", "priority", "sequence_id", "sequence_start", "sequence_end", "classification", "binary_data",
     "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "sidecar_sample", "sidecar_route",
     "triton_enable_empty_final_response", "headers", ""]
) | st.text(max_size=10)  # fmt: skip
FIELDS = sorted(set(codec.CONTENTS.values()))


@st.composite
def valid(draw: Draw, specs: Sequence[TensorSpec], max_rows: int) -> Message:
    """A request that a model with these inputs takes, raw or typed."""
    message = pb.ModelInferRequest(id=draw(st.sampled_from(["", "r"]) | st.text(max_size=8)))
    rows = draw(st.integers(1, max_rows)) if max_rows else 0
    raw = draw(st.booleans()) or any(spec.datatype not in codec.CONTENTS for spec in specs)
    for spec in draw(st.permutations(specs)):
        shape = [size if size >= 0 else draw(st.integers(0, 4)) for size in spec.shape]
        if rows:
            shape[0] = rows
        entry = message.inputs.add(name=spec.name, datatype=spec.datatype, shape=shape)
        tensor = draw(tensors(spec.datatype, tuple(shape)))
        if raw:
            message.raw_input_contents.append(codec.to_raw(tensor))
        else:
            getattr(entry.contents, codec.CONTENTS[spec.datatype]).extend(tensor.array.ravel().tolist())
    for name in draw(st.lists(st.sampled_from([spec.name for spec in specs]), max_size=2, unique=True)):
        message.outputs.add(name=name)
    return message


@st.composite
def tensors(draw: Draw, datatype: str, shape: tuple[int, ...]) -> Tensor:
    count = math.prod(shape)
    if datatype == "BYTES":
        array = np.empty(count, np.object_)
        array[:] = draw(st.lists(st.binary(max_size=6), min_size=count, max_size=count))
        return Tensor(datatype, array.reshape(shape))
    dtype = DATATYPES[datatype]
    drawn = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    array = np.frombuffer(drawn, np.uint8) & 1 if datatype == "BOOL" else np.frombuffer(drawn, dtype)
    return Tensor(datatype, array.astype(dtype, copy=False).reshape(shape))


def _one(entries: Any, draw: Draw) -> Any:
    """One of the entries; a new one where there are none."""
    return draw(st.sampled_from(list(entries))) if entries else entries.add()


def _shape(message: Message, draw: Draw) -> None:
    shape = _one(message.inputs, draw).shape
    if shape and draw(st.booleans()):
        shape[draw(st.integers(0, len(shape) - 1))] = draw(SIZES)
    else:
        shape[:] = draw(st.lists(SIZES, max_size=5))


def _datatype(message: Message, draw: Draw) -> None:
    _one(message.inputs, draw).datatype = draw(
        st.sampled_from([*DATATYPES, "FP8", "fp32", "TYPE_FP32"]) | WORDS
    )


def _name(message: Message, draw: Draw) -> None:
    _one(message.inputs, draw).name = draw(WORDS)


def _twice(message: Message, draw: Draw) -> None:
    """An input or output beside itself."""
    entries = draw(st.sampled_from([message.inputs, message.outputs]))
    entries.add().CopyFrom(_one(entries, draw))


def _without(message: Message, draw: Draw) -> None:
    """One input less, with all that belongs to it."""
    if not message.inputs:
        return
    place = draw(st.integers(0, len(message.inputs) - 1))
    del message.inputs[place]
    if place < len(message.raw_input_contents):
        del message.raw_input_contents[place]


def _missing(message: Message, draw: Draw) -> None:
    """Inputs and contents that are not as many."""
    for repeated in draw(st.lists(st.sampled_from([message.inputs, message.raw_input_contents]), min_size=1)):
        if repeated:
            del repeated[draw(st.integers(0, len(repeated) - 1))]


def _raw(message: Message, draw: Draw) -> None:
    """Contents that are too short, too long or somebody else's."""
    if not message.raw_input_contents or draw(st.booleans()):
        message.raw_input_contents.append(draw(st.binary(max_size=20)))
        return
    place = draw(st.integers(0, len(message.raw_input_contents) - 1))
    message.raw_input_contents[place] = draw(_mutated(message.raw_input_contents[place]))


def _framing(message: Message, draw: Draw) -> None:
    """A length before a BYTES value that is not its own."""
    length = draw(st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1]) | st.integers(0, 40))
    for place, entry in enumerate(message.inputs):
        if entry.datatype == "BYTES" and place < len(message.raw_input_contents):
            raw = message.raw_input_contents[place]
            message.raw_input_contents[place] = length.to_bytes(4, "little") + raw[4:]


def _typed(message: Message, draw: Draw) -> None:
    """Values in a field of another datatype, beside raw ones, too many or too large."""
    contents = _one(message.inputs, draw).contents
    field = draw(st.sampled_from(FIELDS))
    values = {
        "bool_contents": st.booleans(),
        "bytes_contents": st.binary(max_size=4),
        "fp32_contents": st.floats(width=32),
        "fp64_contents": st.floats(),
        "int_contents": st.integers(-(2**31), 2**31 - 1),
        "int64_contents": INT64,
        "uint_contents": st.integers(0, 2**32 - 1),
        "uint64_contents": st.integers(0, 2**64 - 1),
    }[field]
    getattr(contents, field).extend(draw(st.lists(values, max_size=8)))


def _parameter(message: Message, draw: Draw) -> None:
    place = draw(st.sampled_from(["request", "inputs", "outputs"]))
    holder = message if place == "request" else _one(getattr(message, place), draw)
    holder.parameters[draw(NAMES)].CopyFrom(draw(PARAMETERS))


def _output(message: Message, draw: Draw) -> None:
    message.outputs.add(name=draw(WORDS))


def _addressed(message: Message, draw: Draw) -> None:
    """To a model or version that is not there."""
    setattr(message, draw(st.sampled_from(["model_name", "model_version", "id"])), draw(WORDS))


def _cleared(message: Message, draw: Draw) -> None:
    message.ClearField(draw(st.sampled_from([field.name for field in message.DESCRIPTOR.fields])))


MUTATIONS = (
    _shape, _datatype, _name, _twice, _without, _missing, _raw, _framing, _typed, _parameter, _output, _addressed,
    _cleared,
)  # fmt: skip


@st.composite
def nearly_valid(draw: Draw, requests: st.SearchStrategy[Message]) -> Message:
    """One of `requests`, with one to three mutations."""
    message = pb.ModelInferRequest()
    message.CopyFrom(draw(requests))
    for mutate in draw(st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=3)):
        mutate(message, draw)
    return message


@st.composite
def _mutated(draw: Draw, given: bytes) -> bytes:
    """`given` with a few bytes changed, cut out, put in or repeated."""
    changed = bytearray(given)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(changed)))
        stop = min(start + draw(st.integers(0, 8)), len(changed))
        kind = draw(st.sampled_from(["change", "cut", "repeat", "end"]))
        if kind == "repeat":
            changed[start:start] = changed[start:stop]
        elif kind == "end":
            del changed[start:]
        else:
            changed[start:stop] = draw(st.binary(max_size=8)) if kind == "change" else b""
    return bytes(changed)


def field(number: int, content: bytes = b"") -> bytes:
    """A field of length-delimited type as it goes over the wire."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def distinct_parameters(count: int) -> bytes:
    """As many entries of a map whose field is 4, in requests and their inputs."""
    return b"".join(field(4, field(1, b"%d" % number)) for number in range(count))


LARGE: dict[str, Callable[[int], bytes]] = {
    "empty inputs": lambda size: field(5) * (size // 2),
    "empty outputs": lambda size: field(6) * (size // 2),
    "empty raw contents": lambda size: field(7) * (size // 2),
    "empty parameters": lambda size: field(4) * (size // 2),
    "distinct parameters": lambda size: distinct_parameters(size // 8),
    "distinct parameters of an input": lambda size: field(5, distinct_parameters(size // 8)),
    "a shape": lambda size: field(5, field(3, b"\1" * size)),
    "a shape, one by one": lambda size: field(5, b"\x18\1" * (size // 2)),
    "empty contents of an input": lambda size: field(5, field(5) * (size // 2)),
    "integers": lambda size: field(5, field(5, field(3, b"\1" * size))),
    "integers, one by one": lambda size: field(5, field(5, b"\x18\1" * (size // 2))),
    "floats": lambda size: field(5, field(5, field(6, bytes(size // 4 * 4)))),
    "strings": lambda size: field(5, field(5, field(8) * (size // 2))),
    "a name": lambda size: field(1, b"x" * size),
    "an id": lambda size: field(3, b"x" * size),
    "a parameter": lambda size: field(4, field(2, field(3, b"x" * size))),
    "unknown fields": lambda size: field(15) * (size // 2),
    "groups": lambda size: b"\x7b" * (size // 2) + b"\x7c" * (size // 2),
}
"""Messages of about so many bytes, all of them legal: what protobuf makes of some is a hundred times as large."""


@st.composite
def large(draw: Draw, requests: st.SearchStrategy[Message]) -> bytes:
    """A valid request with some of that before or behind it."""
    more = LARGE[draw(st.sampled_from(sorted(LARGE)))](draw(st.sampled_from([2**12, 2**15, 2**18, 2**21])))
    valid = draw(requests).SerializeToString()
    return valid + more if draw(st.booleans()) else more + valid


@st.composite
def wire(draw: Draw, requests: st.SearchStrategy[Message]) -> bytes:
    """Mostly the bytes of a nearly valid request, else those of a valid one that were damaged or are large, or any."""
    kind = draw(st.sampled_from(["nearly", "nearly", "nearly", "damaged", "large", "any"]))
    if kind == "large":
        return draw(large(requests))
    if kind == "nearly":
        return draw(nearly_valid(requests)).SerializeToString()
    return draw(st.binary(max_size=64) if kind == "any" else _mutated(draw(requests).SerializeToString()))
