"""What a message may become when it is parsed, found without parsing it.

Protobuf makes an object of a hundred bytes of two that came, and no other thread runs meanwhile. So of a message
that is not small we first walk over the fields, and refuse more of them than any client needs. What goes as bytes from
one end to the other, raw contents and floats, may be as large as the message. Layout: Protocol Buffers, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sidecar._pb import open_inference_pb2 as pb
from sidecar.errors import InvalidInputError
from sidecar.server.wire import CONTINUES, LENGTH_DELIMITED, read_varint

SMALL_BYTES = 16 * 1024
"""A message of up to so many cannot become much, and is not looked at."""

MOST_FIELDS = 2**15
"""Most fields of a request: inputs, what is in them, raw contents, parameters, and strings in typed contents."""

MOST_VALUES = 2**20
"""Most integers and booleans in the typed contents of a request: each is up to eight times its bytes, one by one."""

MOST_BESIDE = 2**20
"""Most bytes of a request beside raw and typed contents and its id."""

OTHER_BYTES = 64 * 1024
"""Largest message of a method that brings no tensors."""

_INFERENCES = (
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ModelStreamInfer",
)

_Field = tuple[int, int, int, int]
"""Its tag, and where it begins, its content begins, and it ends."""

_VARINT, _FIXED64, _FIXED32 = 0, 1, 5


def _tags(message: type, *names: str) -> list[int]:
    fields = message.DESCRIPTOR.fields_by_name  # type: ignore[attr-defined]  # generated
    return [fields[name].number << 3 | LENGTH_DELIMITED for name in names]


_INPUTS, _OUTPUTS, _RAW, _ID = _tags(pb.ModelInferRequest, "inputs", "outputs", "raw_input_contents", "id")
(_TYPED,) = _tags(pb.ModelInferRequest.InferInputTensor, "contents")
_VALUES = _tags(
    pb.InferTensorContents,
    "bool_contents", "int_contents", "int64_contents", "uint_contents", "uint64_contents",
)  # fmt: skip
_PACKED = frozenset(_tags(pb.InferTensorContents, *pb.InferTensorContents.DESCRIPTOR.fields_by_name))


def check(method: str, raw: bytes) -> None:
    """Raises InvalidInputError where `raw`, a message to the method of that path, could become too large."""
    if len(raw) <= SMALL_BYTES:
        return
    if method in _INFERENCES:
        check_inference(raw)
    elif len(raw) > OTHER_BYTES:
        raise InvalidInputError(f"the message has {len(raw)} bytes, this method takes up to {OTHER_BYTES}")


def check_inference(raw: bytes) -> None:
    """`check` of a ModelInferRequest."""
    if len(raw) > SMALL_BYTES:
        _Walk(raw).over_request()


class _Walk:
    """Over one message, which may be none at all: then whatever cannot be walked over counts as beside contents."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._fields = self._values = self._beside = 0

    def over_request(self) -> None:
        for tag, begin, start, stop in self._within(0, len(self._raw)):
            if tag in (_RAW, _ID):
                continue
            if tag in (_INPUTS, _OUTPUTS):
                self._over_tensor(start, stop, _TYPED if tag == _INPUTS else None)
            else:
                self._add_beside(stop - begin)

    def _over_tensor(self, start: int, stop: int, typed: int | None) -> None:
        for tag, begin, first, end in self._within(start, stop):
            if tag == typed:
                self._over_contents(first, end)
            else:
                self._add_beside(end - begin)

    def _over_contents(self, start: int, stop: int) -> None:
        for tag, begin, first, end in self._within(start, stop):
            if tag in _VALUES:
                self._add_values(first, end)
            elif tag not in _PACKED:
                self._add_beside(end - begin)

    def _add_values(self, start: int, stop: int) -> None:
        if (count := stop - start) > MOST_VALUES:
            # The last byte of each value is the one that says so.
            found = np.frombuffer(self._raw, np.uint8, count, start)
            count = int(np.count_nonzero(found < CONTINUES))
        self._values += count
        if self._values > MOST_VALUES:
            raise InvalidInputError(
                f"the request has over {MOST_VALUES} integers or booleans in typed contents, "
                "must send so many in raw_input_contents"
            )

    def _add_beside(self, size: int) -> None:
        self._beside += size
        if self._beside > MOST_BESIDE:
            raise InvalidInputError(
                f"the request has over {MOST_BESIDE} bytes of names, shapes and parameters, must have fewer"
            )

    def _within(self, start: int, stop: int) -> Iterator[_Field]:
        raw = self._raw
        while start < stop:
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise InvalidInputError(
                    f"the request has over {MOST_FIELDS} inputs, parameters and strings, must have fewer"
                )
            tag, place = read_varint(raw, start)
            kind = tag & 7
            if kind == LENGTH_DELIMITED:
                size, place = read_varint(raw, place)
                end = place + size
            elif kind == _VARINT:
                end = read_varint(raw, place)[1]
            else:
                end = place + {_FIXED32: 4, _FIXED64: 8}.get(kind, stop)
            end = min(end, stop)
            yield tag, start, place, end
            start = end
