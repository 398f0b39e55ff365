"""Whether the inputs and outputs in the settings are those of an ONNX model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnx import GraphProto, TensorProto, ValueInfoProto

from sidecar.errors import ModelError
from sidecar.runtime.onnx_external import ELEMENT_TYPES
from sidecar.settings import ModelSettings, TensorSettings

_DATATYPES = {element_type: datatype for datatype, element_type in ELEMENT_TYPES.items()}


def check(settings: ModelSettings, graph: GraphProto) -> None:
    """Every input of the model once, and outputs that it has, with its types and shapes. Raises ModelError."""
    constant = {tensor.name for tensor in graph.initializer}
    takes = {value.name: value for value in graph.input if value.name not in constant}
    given = [tensor.name for tensor in settings.inputs]
    if sorted(given) != sorted(takes):
        raise ModelError(
            f"inputs are {', '.join(given)} in the settings, the model takes {_described(takes.values())}"
        )
    gives = {value.name: value for value in graph.output}
    if missing := [tensor.name for tensor in settings.outputs if tensor.name not in gives]:
        raise ModelError(f"the model has no output {missing[0]}, it gives {_described(gives.values())}")
    batched = settings.batching.max_rows > 0
    for tensor in settings.inputs:
        _compare("input", tensor, takes[tensor.name], batched=batched)
    for tensor in settings.outputs:
        # What an exporter notes as the shape of an output is a guess, and the first dimension often a wrong one.
        _compare("output", tensor, gives[tensor.name], batched=False)


def _compare(role: str, tensor: TensorSettings, value: ValueInfoProto, *, batched: bool) -> None:
    sizes = _sizes(value)
    if tensor.datatype != _datatype(value) or (sizes is not None and not _fits(tensor.shape, sizes)):
        raise ModelError(
            f"{role} {tensor.name} is {tensor.datatype} {list(tensor.shape)} in the settings, "
            f"in the model {_described([value])}"
        )
    if batched and sizes and isinstance(sizes[0], int):
        raise ModelError(
            f"{role} {tensor.name} has a first dimension of {sizes[0]} in the model: export it with a symbolic one, "
            "or set batching.max_rows = 0"
        )


def _fits(configured: Sequence[int], sizes: Sequence[int | str]) -> bool:
    return len(configured) == len(sizes) and all(
        isinstance(size, str) or size == own for own, size in zip(configured, sizes, strict=True)
    )


def _datatype(value: ValueInfoProto) -> str:
    if not value.type.HasField("tensor_type"):
        return str(value.type.WhichOneof("value"))
    element_type = value.type.tensor_type.elem_type
    return _DATATYPES.get(element_type) or str(TensorProto.DataType.Name(element_type))


def _sizes(value: ValueInfoProto) -> list[int | str] | None:
    """Numbers, and for symbolic dimensions their names; None where the model does not say."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]


def _described(values: Iterable[ValueInfoProto]) -> str:
    return ", ".join(
        f"{value.name} {_datatype(value)} [{', '.join(map(str, _sizes(value) or ['...']))}]"
        for value in values
    )
