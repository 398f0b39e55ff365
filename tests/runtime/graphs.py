"""ONNX models made by hand, a few nodes each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

OPSET = 20


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """Names of inputs and outputs in one string each; the node is called as its first output, with `_node`."""
    names = outputs.split()
    return helper.make_node(kind, inputs.split(), names, name=f"{names[0]}_node", **attributes)


def value(
    name: str, shape: Sequence[int | str], element_type: int = TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element_type, shape)


def model(
    nodes: Iterable[NodeProto],
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    inputs: Sequence[onnx.ValueInfoProto] = (value("x", ["batch", 4]),),
    outputs: Sequence[onnx.ValueInfoProto] = (value("y", ["batch", 4]),),
    domains: Sequence[str] = (),
) -> ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), initializers)
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def square(size: int = 4) -> np.ndarray:
    return np.random.default_rng(size).standard_normal((size, size)).astype(np.float32)


def save(proto: ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path
