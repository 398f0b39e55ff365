"""The data flow of an ONNX graph: which values depend on the request, which nodes gave them and which take them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from sidecar.runtime.onnx_file import inner_graphs

_FLOATS: Mapping[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}

_WEIGHTED = re.compile(r"MatMul|Gemm|Conv|^LSTM$|^GRU$|^Einsum$")

# What they give depends on the shape of a request alone.
_SHAPES = frozenset({"Shape", "Size"})

_CHANNELS_FIRST = re.compile(r"Conv|Pool|^(Batch|Instance|Group|LpNormalization)Normalization$")
_CHANNELS_LAST = re.compile(r"MatMul|Gemm|(Layer|RMS)Normalization$|^Gather$")
_ELEMENTWISE = re.compile(
    r"^(Add|Sub|Mul|Div|Pow|Sum|Identity|Cast|Dropout|Clip|Sqrt|Erf|Tanh|Sigmoid|HardSwish|HardSigmoid|Swish|Mish"
    r"|\w*Relu|\w*Elu|\w*Gelu|Softplus|QuantizeLinear|DequantizeLinear)$"
)


class Graph:
    """The outermost graph of a model, its nodes in the order in which they run.

    data: values that depend on what the inputs hold. producer: value -> node. consumers: value -> nodes.
    """

    def __init__(self, model: ModelProto, weights: Iterable[str]) -> None:
        """model: an outline; `weights`: those of its inputs that are none."""
        self.nodes: list[NodeProto] = list(model.graph.node)
        constant = set(weights) | {tensor.name for tensor in model.graph.initializer}
        self.data = {value.name for value in model.graph.input} - constant
        self.outputs = [value.name for value in model.graph.output]
        self.producer: dict[str, int] = {}
        self.consumers: dict[str, list[int]] = {}
        self._inputs: list[tuple[str, ...]] = []
        for index, node in enumerate(self.nodes):
            taken = tuple(name for name in _taken(node) if name in self.data)
            self._inputs.append(taken)
            for name in taken:
                self.consumers.setdefault(name, []).append(index)
            for name in filter(None, node.output):
                self.producer[name] = index
                if taken and node.op_type not in _SHAPES:
                    self.data.add(name)
        self._types = _element_types(model)

    def inputs(self, index: int) -> tuple[str, ...]:
        """The values that node `index` takes and that are data."""
        return self._inputs[index]

    def made_by(self, value: str) -> int:
        """The node that gives `value`; -1 for an input of the graph."""
        return self.producer.get(value, -1)

    def weighted(self, index: int) -> bool:
        """It multiplies data with weights."""
        node = self.nodes[index]
        return bool(_WEIGHTED.search(node.op_type)) and len(self._inputs[index]) < len(node.input)

    def between(self, start: str, end: str) -> list[int]:
        """Nodes on the ways from value `start` to value `end`, in order; empty when there is none."""
        first = self.made_by(start)
        behind: set[int] = set()
        pending = [self.made_by(end)]
        while pending:
            index = pending.pop()
            if index > first and index not in behind:
                behind.add(index)
                pending += [self.made_by(name) for name in self._inputs[index] if name != start]
        reached: set[int] = set()
        for index in sorted(behind):
            if any(name == start or self.made_by(name) in reached for name in self._inputs[index]):
                reached.add(index)
        return sorted(reached)

    def function_of(self, end: str, start: str) -> bool:
        """`end` is computed from `start` and constants, without weights in between."""
        pending, seen = [end], {start}
        while pending:
            value = pending.pop()
            if value in seen:
                continue
            seen.add(value)
            index = self.made_by(value)
            if index < 0 or self.weighted(index):
                return False
            pending += self._inputs[index]
        return True

    def floating(self, value: str) -> bool:
        """Also for values whose type only ONNX Runtime knows."""
        return self._types.get(value, TensorProto.FLOAT) in _FLOATS

    def number_format(self, value: str) -> str:
        """Empty where only ONNX Runtime knows it."""
        return _FLOATS.get(self._types.get(value, 0), "")

    def channel_dim(self, value: str) -> int | None:
        """By the node that gives it, or for an activation function or a sum by the first that says something."""
        pending, seen = [value], set()
        while pending:
            index = self.made_by(pending.pop())
            if index < 0 or index in seen:
                continue
            seen.add(index)
            kind = self.nodes[index].op_type
            if _CHANNELS_FIRST.search(kind):
                return 1
            if _CHANNELS_LAST.search(kind):
                return -1
            if _ELEMENTWISE.search(kind):
                pending += reversed(self._inputs[index])
        return None


def _taken(node: NodeProto) -> list[str]:
    """Its inputs, and what the graphs inside it take from around them."""
    inner = [graph for attribute in node.attribute for graph in inner_graphs(attribute)]
    return [*node.input, *(name for graph in inner for part in graph.node for name in _taken(part))]


def _element_types(model: ModelProto) -> Mapping[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: value.type.tensor_type.elem_type
        for value in (*inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type
    }
