"""Reads an ONNX file as untrusted: parsed, checked, and its weights taken out of it by us and nobody else.

ONNX Runtime gets a graph in which no path stands, so it opens no file on a model's word. What external data may
name is in `onnx_external`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from sidecar.errors import ModelError
from sidecar.runtime.onnx_external import STORED, Array, Folder, size

_LARGEST_FILE = 2**31 - 1  # of a protobuf message

# Smaller ones stay in the graph, where ONNX Runtime reads shapes and axes from them as it optimises.
_SMALLEST_WEIGHT = 1024

_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A checked model.

    graph: its weights are declared as external data under a name that is no file.
    weights: their values by name, bfloat16 as its 16 bits; those of external data are mapped, not read.
    outline: the same with the weights as inputs, which is small and complete.
    """

    graph: ModelProto
    weights: Mapping[str, Array]
    outline: ModelProto


def read(path: Path) -> OnnxFile:
    """Raises ModelError for a file that is no valid ONNX model, or refers to what it must not."""
    model = _parse(path)
    _refuse_foreign_operators(model)
    # Nothing ever runs them, and tensors could hide there.
    del model.training_info[:]
    folder = Folder(path.parent)
    for tensor in _tensors_of_nodes(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            _put_inline(tensor, folder.content(tensor))
    weights = {}
    for tensor in model.graph.initializer:
        values = _values(tensor, folder)
        if values is not None:
            weights[tensor.name] = values
            _declare(tensor)
    outline = _outline(model)
    try:
        onnx.checker.check_model(outline)
    # The checker quotes names, which need not be text.
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not a valid ONNX model: {error}") from error
    return OnnxFile(model, weights, outline)


def _parse(path: Path) -> ModelProto:
    try:
        if not path.is_file():
            raise ModelError(f"{path} is not a file")
        if (length := path.stat().st_size) > _LARGEST_FILE:
            raise ModelError(
                f"{path} has {length} bytes, must have at most {_LARGEST_FILE}: larger weights go into external data"
            )
        return onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX file: {error}") from error


def _refuse_foreign_operators(model: ModelProto) -> None:
    own = {function.domain for function in model.functions}
    for node in _nodes(model):
        if node.domain not in _DOMAINS | own:
            raise ModelError(
                f"operator {node.domain}::{node.op_type} is of no domain that ONNX Runtime has built in, "
                "and no library of operators is loaded"
            )
        if node.op_type == "EPContext":
            raise ModelError("operator EPContext refers to a compiled binary, which is not loaded")


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    yield from model.graph.node
    for function in model.functions:
        yield from function.node
    for attribute in _attributes(model):
        for graph in inner_graphs(attribute):
            yield from graph.node


def _attributes(model: ModelProto) -> Iterator[AttributeProto]:
    """All, those of functions and of nodes inside nodes included."""
    functions = model.functions
    pending = [attribute for function in functions for attribute in function.attribute_proto]
    nodes = [*model.graph.node, *(node for function in functions for node in function.node)]
    pending += [attribute for node in nodes for attribute in node.attribute]
    while pending:
        attribute = pending.pop()
        yield attribute
        inner = (node for graph in inner_graphs(attribute) for node in graph.node)
        pending += [attribute for node in inner for attribute in node.attribute]


def inner_graphs(attribute: AttributeProto) -> list[GraphProto]:
    """The branches of an If, the body of a Loop or Scan."""
    # By field: the type that an attribute claims to have need not be true.
    return [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]


def _tensors_of_nodes(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor that is no initializer of the outermost graph."""
    sparse = [*model.graph.sparse_initializer]
    for attribute in _attributes(model):
        yield from attribute.tensors
        if attribute.HasField("t"):
            yield attribute.t
        sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
        for graph in inner_graphs(attribute):
            yield from graph.initializer
            sparse += graph.sparse_initializer
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)


def _values(tensor: TensorProto, folder: Folder) -> Array | None:
    """What to take out of the graph; None for what stays in it."""
    external = tensor.data_location == TensorProto.EXTERNAL
    if tensor.data_type not in STORED:
        if external:
            _put_inline(tensor, folder.content(tensor))
        return None
    length = size(tensor)
    if external:
        content = folder.content(tensor)
        if length < _SMALLEST_WEIGHT:
            _put_inline(tensor, content)
            return None
        return content.view(STORED[tensor.data_type]).reshape(tuple(tensor.dims))
    if length < _SMALLEST_WEIGHT:
        return None
    try:
        return numpy_helper.to_array(tensor).view(STORED[tensor.data_type])
    except (ValueError, TypeError) as error:
        raise ModelError(f"initializer {tensor.name!r} does not hold what it declares: {error}") from error


def _put_inline(tensor: TensorProto, content: Array) -> None:
    del tensor.external_data[:]
    tensor.data_location = TensorProto.DEFAULT
    tensor.raw_data = content.tobytes()


def _declare(tensor: TensorProto) -> None:
    """Leave name, type and shape. ONNX Runtime takes values from outside only for external data."""
    declared = TensorProto(
        name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=TensorProto.EXTERNAL
    )
    declared.external_data.add(key="location", value="given at load")
    tensor.CopyFrom(declared)


def _outline(model: ModelProto) -> ModelProto:
    outline = ModelProto()
    outline.CopyFrom(model)
    graph = outline.graph
    known = {value.name for value in graph.input}
    kept = []
    for tensor in graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            kept.append(tensor)
        elif tensor.name not in known:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    smaller = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(smaller)
    return outline
