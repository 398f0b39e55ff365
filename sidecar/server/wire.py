"""Replies as the bytes that go over the wire, with one copy of each output.

Protobuf would copy an output three times: into bytes, into the message, and out of it. What stands before the
outputs' contents depends on their shapes only, so protobuf writes it once and we put the pieces together: the fields of
a message may come in any order, and those of length-delimited type are a tag, a length and the content (Protocol
Buffers, "Encoding").
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from sidecar._pb import open_inference_pb2 as pb
from sidecar.server.codec import to_raw
from sidecar.types import InferReply, Servable

LENGTH_DELIMITED = 2
"""Type of a field, in the lowest bits of its tag."""

CONTINUES = 0x80
"""Bit of a byte of a length: another follows."""

_LONGEST_VARINT = 10

_ID, _CONTENTS = (
    bytes([pb.ModelInferResponse.DESCRIPTOR.fields_by_name[name].number << 3 | LENGTH_DELIMITED])
    for name in ("id", "raw_output_contents")
)


def serialise(reply: InferReply, wanted: Sequence[str], servable: Servable, *, id: str) -> bytes:
    """`codec.encode(...)`, serialised, of a reply of which no classes are asked for.

    wanted: names of outputs; none for all.
    """
    names = wanted or list(reply.outputs)
    tensors = [reply.outputs[name] for name in names]
    outputs = tuple([(name, one.datatype, one.array.shape) for name, one in zip(names, tensors, strict=True)])
    encoded = id.encode()
    parts: list[Any] = [_head(servable.name, servable.version, outputs), _ID, varint(len(encoded)), encoded]
    for tensor in tensors:
        if tensor.datatype == "BYTES":
            contents: Any = to_raw(tensor)
            length = len(contents)
        else:
            contents = np.ascontiguousarray(tensor.array)
            length = contents.nbytes
        parts += [_CONTENTS, varint(length), contents]
    return b"".join(parts)


@lru_cache(1024)
def _head(model: str, version: str, outputs: tuple[tuple[str, str, tuple[int, ...]], ...]) -> bytes:
    response = pb.ModelInferResponse(model_name=model, model_version=version)
    for name, datatype, shape in outputs:
        response.outputs.add(name=name, datatype=datatype, shape=shape)
    written: bytes = response.SerializeToString()
    return written


@lru_cache(1024)
def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first, the top bit of all but the last set."""
    found = bytearray()
    while value >= CONTINUES:
        found.append(value & ~CONTINUES & 0xFF | CONTINUES)
        value >>= 7
    found.append(value)
    return bytes(found)


def read_varint(raw: bytes, start: int) -> tuple[int, int]:
    """The inverse of `varint`, and the position after it; more than any message has, and its end, where none stands."""
    found = shift = 0
    for byte in raw[start : start + _LONGEST_VARINT]:
        found |= (byte & ~CONTINUES) << shift
        shift += 7
        if not byte & CONTINUES:
            return found, start + shift // 7
    return 1 << 40, len(raw)
