"""The plain and the instrumented session of a model: the same graph, the same bits, one set of weights."""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from sidecar.runtime.onnx_file import read
from sidecar.runtime.onnx_graph import Graph
from sidecar.runtime.onnx_points import tap_points
from sidecar.runtime.onnx_session import Engine
from sidecar.runtime.onnx_variants import variants
from sidecar.types import Tensor
from tests.runtime.exports import BLOCKS, TOKENS, WORDS

TRANSFORMERS = ["pre-norm", "post-norm", "written-out", "rotary"]


def batch(name, rows=5):
    random = np.random.default_rng(3)
    if name == "network":
        return {"x": Tensor("FP32", random.standard_normal((rows, 3, 32, 32)).astype(np.float32))}
    return {"x": Tensor("INT64", random.integers(0, WORDS, (rows, TOKENS)))}


def operators(path):
    return Counter(node.op_type for node in onnx.load_model(path, load_external_data=False).graph.node)


def _packed(path):
    """Weights that lie in the file as kernels want them."""
    graph = onnx.load_model(path, load_external_data=False).graph
    entries = {tensor.name: [entry.key for entry in tensor.external_data] for tensor in graph.initializer}
    return {name for name, keys in entries.items() if any(key.startswith("prepacked") for key in keys)}


class Pair:
    """Both variants of an exported model with its default taps or others, and the operators of both."""

    def __init__(self, path, monkeypatch, taps=()):
        file = read(path)
        graph = Graph(file.outline, file.weights)
        self.taps = list(taps) or [point.name for point in tap_points(graph) if point.default]
        counted, open_session = [], Engine.open
        self.operators = counted
        self.packed = packed = set()

        def opened(engine, path):
            counted.append(operators(path))
            packed.update(_packed(path))
            return open_session(engine, path)

        monkeypatch.setattr(Engine, "open", opened)
        self.plain, self.instrumented = variants(Engine("cpu", 1), file, graph, self.taps)


@pytest.fixture
def pair(exported, monkeypatch):
    return lambda name, taps=(): Pair(exported(name), monkeypatch, taps)


def direct(path, folder):
    """ONNX Runtime on its own: a session, and the operators of its graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session, operators(folder / "optimised.onnx")


@pytest.mark.parametrize("name", [*TRANSFORMERS, "network"])
def test_the_plain_variant_is_what_onnx_runtime_makes_alone(pair, exported, tmp_path, name):
    session, fused = direct(exported(name), tmp_path)
    made = pair(name)
    assert made.operators[0] == fused
    (expected,) = session.run(None, {"x": batch(name)["x"].array})
    (answer,) = made.plain.run(batch(name), ["logits"])
    assert answer.numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_taps_on_a_residual_stream_change_no_operator(pair, name):
    plain, instrumented = pair(name).operators
    assert plain == instrumented


def test_taps_on_stages_leave_every_fusion_and_only_bring_values_back_from_blocked_layout(pair):
    plain, instrumented = pair("network").operators
    assert instrumented - plain == Counter({"ReorderOutput": 2})
    assert not plain - instrumented


@pytest.mark.parametrize("name", [*TRANSFORMERS, "network"])
def test_both_variants_answer_the_same_bits(pair, name):
    made = pair(name)
    (plain,) = made.plain.run(batch(name), ["logits"])
    observed, *_ = made.instrumented.run(batch(name), ["logits", *made.taps])
    assert torch.equal(plain, observed)


@pytest.mark.parametrize("name", ["pre-norm", "written-out"])
def test_a_sum_that_was_fused_into_a_norm_is_had_from_there(pair, exported, name):
    """The last residual add is the only one that nothing but a norm takes, and the one fused with it."""
    made = pair(name)
    assert made.operators[1]["SkipLayerNormalization"] == 1
    *_, last = made.instrumented.run(batch(name), made.taps)
    proto = onnx.load_model(exported(name))
    proto.graph.output.append(onnx.ValueInfoProto(name=made.taps[-1]))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run([made.taps[-1]], {"x": batch(name)["x"].array})
    assert np.allclose(last.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_tap_in_the_way_of_a_fusion_is_told(pair, exported, caplog):
    proto = onnx.load_model(exported("pre-norm"))
    (gelu, *_) = [node for node in proto.graph.node if node.op_type == "Gelu"]
    with caplog.at_level(logging.WARNING, "sidecar.runtime"):
        pair("pre-norm", [gelu.input[0]])
    assert "taps keep ONNX Runtime from fusing: BiasGelu" in caplog.text


def mapped(pattern):
    """Of each mapping of a file in this process that matches: its inode."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line.split()[4] for line in lines if re.search(pattern, line)]


def test_both_variants_of_a_transformer_map_the_same_file_of_weights_and_leave_nothing_behind(
    pair, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = pair("pre-norm")
    inodes = mapped(rf"{re.escape(str(tmp_path))}.*/weights")
    assert len(inodes) > 1
    assert len(made.packed) >= 4 * BLOCKS
    assert len(set(inodes)) == 1
    assert list(tmp_path.iterdir()) == []
    del made
    assert not mapped(re.escape(str(tmp_path)))
