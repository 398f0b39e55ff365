"""The two sessions of a model: the same optimised graph, once as it is and once with the tapped values as outputs.

A value that becomes an output of the graph before ONNX Runtime optimises it is in the way of fusions, and then the
variants compute different things. So the graph is optimised first, and what is tapped is looked up in the result.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import ModelProto, ValueInfoProto

from sidecar.errors import ModelError
from sidecar.runtime.onnx_file import OnnxFile
from sidecar.runtime.onnx_graph import Graph
from sidecar.runtime.onnx_session import Engine, Session

_log = logging.getLogger("sidecar.runtime")

_SKIP_NORMS = frozenset({"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})
_SUM = 3
"""Position of the output of a skip norm that holds the sum it normalises."""

_WEIGHTS = "weights"


def variants(engine: Engine, file: OnnxFile, graph: Graph, names: Sequence[str]) -> tuple[Session, Session]:
    """Plain and instrumented; the second gives the values `names` beside the outputs of the model.

    Both map the same file of packed weights, which is gone from the disk when they are closed. Where optimising
    leaves no trace of a value, as inside a network of convolutions that runs in blocked layout, the instrumented
    graph is optimised with it, and has weights of its own. Raises ModelError.
    """
    with TemporaryDirectory(prefix="sidecar-") as folder:
        plain = Path(folder, "plain", "model.onnx")
        tapped = plain.with_name("tapped.onnx")
        optimised = _optimise(engine, file, [], plain)
        fusions = _operators(optimised)
        if missing := _tap(optimised, graph, names):
            tapped = Path(folder, "tapped", "model.onnx")
            optimised = _optimise(engine, file, missing, tapped)
            if lost := _tap(optimised, graph, names):
                raise ModelError(f"ONNX Runtime keeps no value {', '.join(lost)} to tap")
        if broken := fusions - _operators(optimised):
            _log.warning("taps keep ONNX Runtime from fusing: %s", ", ".join(sorted(broken)))
        tapped.write_bytes(optimised.SerializeToString())
        return engine.open(plain), engine.open(tapped)


def shapes(engine: Engine, file: OnnxFile, names: Sequence[str]) -> Session:
    """A session whose outputs, in the order of `names`, are the shapes of those values."""
    model = ModelProto()
    model.CopyFrom(file.graph)
    for position, name in enumerate(names):
        model.graph.node.append(onnx.helper.make_node("Shape", [name], [shape_of(position)]))
        model.graph.output.append(ValueInfoProto(name=shape_of(position)))
    return engine.session(model, file.weights, engine.options(optimise=False))


def shape_of(position: int) -> str:
    return f"sidecar.shape.{position}"


def _optimise(engine: Engine, file: OnnxFile, outputs: Sequence[str], path: Path) -> ModelProto:
    """The graph as ONNX Runtime runs it, written to `path` with the weights beside it as its kernels pack them."""
    path.parent.mkdir()
    options = engine.options()
    options.optimized_model_filepath = str(path)
    for key, value in {
        "session.optimized_model_external_initializers_file_name": _WEIGHTS,
        "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
        "session.save_external_prepacked_constant_initializers": "1",
    }.items():
        options.add_session_config_entry(key, value)
    engine.session(_with_outputs(file.graph, outputs), file.weights, options)
    return onnx.load_model(path, load_external_data=False)


def _with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    changed = ModelProto()
    changed.CopyFrom(model)
    known = {value.name for value in changed.graph.output}
    changed.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in known)
    return changed


def _tap(optimised: ModelProto, graph: Graph, names: Sequence[str]) -> list[str]:
    """Make outputs of the values `names`; returns those that are not there."""
    there = {name for node in optimised.graph.node for name in node.output}
    for name in names:
        if name not in there and _uncover(optimised, graph, name):
            there.add(name)
    found = [name for name in names if name in there]
    optimised.CopyFrom(_with_outputs(optimised, found))
    return [name for name in names if name not in there]


def _uncover(optimised: ModelProto, graph: Graph, name: str) -> bool:
    """Have the skip norm that took in the sum `name` give it as an output, which its kernel does at no change."""
    made_by = graph.made_by(name)
    if made_by < 0 or graph.nodes[made_by].op_type != "Add":
        return False
    for node in optimised.graph.node:
        takes_it_in = (
            node.op_type in _SKIP_NORMS
            and set(node.input[:2]) & set(graph.inputs(made_by))
            and graph.function_of(node.output[0], name)
        )
        if takes_it_in and len(node.output) <= _SUM:
            node.output.extend([""] * (_SUM + 1 - len(node.output)))
            node.output[_SUM] = name
            return True
    return False


def _operators(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)
