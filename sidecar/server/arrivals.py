"""Requests as the bytes that came, parsed in full only where nothing like them came before.

A client sends the same message again and again, but for its id and the contents of its tensors. What is left without
those, the head, is parsed and checked once; of the next message with that head only the lengths of the contents are
looked at. Layout: a message is a row of fields, those of length-delimited type a tag, a length and the content
(Protocol Buffers, "Encoding").
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from sidecar._pb import open_inference_pb2 as pb
from sidecar.errors import InvalidInputError
from sidecar.server import bounds, codec
from sidecar.server.wire import CONTINUES, LENGTH_DELIMITED, read_varint
from sidecar.types import DATATYPES, InferRequest, Servable, Tensor, TensorSpec

HEAD_BYTES = 1024
"""Longest head that is kept. Values may stand in a head too, and no client shall fill the memory with those."""

HEADS = 128
"""How many are kept, those that came last. Parsed, one can take a hundred times its bytes."""

MOST_FIELDS = 64
"""A message of more is left to `bounds` and protobuf."""

_ID, _CONTENTS, _MODEL, _VERSION, _INPUTS, _OUTPUTS = (
    pb.ModelInferRequest.DESCRIPTOR.fields_by_name[name].number << 3 | LENGTH_DELIMITED
    for name in ("id", "raw_input_contents", "model_name", "model_version", "inputs", "outputs")
)
# Parameters differ between requests.
_HEAD = frozenset((_MODEL, _VERSION, _INPUTS, _OUTPUTS))

# What contents of other datatypes hold must be looked at.
_FIXED = frozenset(DATATYPES) - {"BOOL", "BYTES"}

_Places = list[tuple[int, int]]
"""First byte and length of each of a message's raw contents."""


class _Input(NamedTuple):
    """position: of its contents among all. values, size: how many, and their bytes."""

    name: str
    position: int
    datatype: str
    dtype: npt.DTypeLike
    shape: tuple[int, ...]
    values: int
    size: int


class _Model(NamedTuple):
    """What `codec.decode` goes by, without the servable: a head shall not hold a model that was unloaded."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_rows: int

    def takes_as(self, servable: Servable) -> bool:
        """A message that it takes is taken by `servable`, and the same way."""
        return (
            self.inputs is servable.inputs
            and self.outputs is servable.outputs
            and self.max_rows == servable.max_rows
        )


class _Known(NamedTuple):
    """What `codec.decode` found for a head: it holds for every message whose contents have these lengths."""

    model: _Model
    inputs: tuple[_Input, ...]
    rows: int


class Head:
    """What messages have in common that differ in id and contents only.

    message: parsed. outputs: names of those asked for, none for all. ranked: classes are asked for.
    Raises DecodeError where it is no message.
    """

    __slots__ = ("known", "message", "outputs", "ranked")

    def __init__(self, head: bytes) -> None:
        self.message = pb.ModelInferRequest.FromString(head)
        self.outputs = [entry.name for entry in self.message.outputs]
        self.ranked = bool(codec.classes(self.message))
        # One attribute, so that it changes as a whole for whichever thread looks.
        self.known: _Known | None = None

    def learn(self, servable: Servable, request: InferRequest, places: _Places) -> None:
        """`request` was decoded from a message with this head."""
        inputs, names = request.inputs, [entry.name for entry in self.message.inputs]
        if len(places) == len(inputs) and all(tensor.datatype in _FIXED for tensor in inputs.values()):
            described = [
                _Input(
                    name,
                    names.index(name),
                    tensor.datatype,
                    tensor.array.dtype,
                    tensor.array.shape,
                    math.prod(tensor.array.shape),
                    tensor.array.nbytes,
                )
                for name, tensor in inputs.items()
            ]
            model = _Model(servable.inputs, servable.outputs, servable.max_rows)
            self.known = _Known(model, tuple(described), request.rows)


class Arrival:
    """One request. id: may be set where the client gave none."""

    __slots__ = ("_places", "_raw", "head", "id")

    def __init__(self, head: Head, id: str, raw: bytes, places: _Places | None) -> None:
        self.head = head
        self.id = id
        self._raw = raw
        self._places = places

    def decode(self, servable: Servable, deadline: float | None) -> InferRequest:
        """See `codec.decode`, which does what was not done before."""
        places = self._places
        if places is None:
            return codec.decode(self.head.message, servable, id=self.id, deadline=deadline)
        known = self.head.known
        if (
            known is not None
            and known.model.takes_as(servable)
            and (inputs := self._tensors(known, places)) is not None
        ):
            return InferRequest(self.id, inputs, known.rows, {}, deadline, message_bytes=len(self._raw))
        request = codec.decode(
            pb.ModelInferRequest.FromString(self._raw), servable, id=self.id, deadline=deadline
        )
        self.head.learn(servable, request, places)
        return request

    def _tensors(self, known: _Known, places: _Places) -> dict[str, Tensor] | None:
        if len(places) != len(known.inputs):
            return None
        found: dict[str, Tensor] = {}
        for name, position, datatype, dtype, shape, values, size in known.inputs:
            start, length = places[position]
            if length != size:
                return None
            array: npt.NDArray[Any] = np.frombuffer(self._raw, dtype, values, start)
            found[name] = Tensor(datatype, array.reshape(shape))
        return found


def read(raw: bytes) -> Arrival | None:
    """The request in `raw`; None where that is no message, or one that may not be parsed."""
    try:
        if (parts := _divided(raw)) is not None:
            head, id, places = parts
            return Arrival(head_of(head), id, raw, places)
        bounds.check_inference(raw)
        whole = Head(raw)
        return Arrival(whole, whole.message.id, raw, None)
    except (DecodeError, InvalidInputError):
        return None


head_of = lru_cache(HEADS)(Head)
"""The head of these bytes, the same one as long as it is kept. Raises DecodeError where they are no message."""


def _divided(raw: bytes) -> tuple[bytes, str, _Places] | None:
    """Head, id, and where the contents are; None of a message that is no client's usual one."""
    head = b""
    id: bytes | None = None
    places: _Places = []
    position, end, left = 0, len(raw), MOST_FIELDS
    while position < end - 1:
        tag, size, start = raw[position], raw[position + 1], position + 2
        if size & CONTINUES:
            size, start = read_varint(raw, position + 1)
        stop = start + size
        left -= 1
        if stop > end or left < 0 or len(head) > HEAD_BYTES:
            return None
        if tag == _CONTENTS:
            places.append((start, size))
        elif tag in _HEAD:
            head += raw[position:stop]
        elif tag == _ID and id is None:
            id = raw[start:stop]
        else:
            return None
        position = stop
    if position != end or len(head) > HEAD_BYTES:
        return None
    try:
        return head, id.decode() if id else "", places
    except UnicodeDecodeError:
        return None
