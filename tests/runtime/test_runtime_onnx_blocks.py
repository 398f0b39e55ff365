"""Residual adds of ONNX graphs, the blocks and stages that they close, and the tap points that come of it."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from sidecar.runtime.onnx_file import read
from sidecar.runtime.onnx_graph import Graph
from sidecar.runtime.onnx_points import tap_points
from tests.runtime.exports import BLOCKS
from tests.runtime.graphs import model, node, save, square, value


def points(path):
    file = read(path)
    return {point.name: point for point in tap_points(Graph(file.outline, file.weights))}


@pytest.fixture
def made(tmp_path):
    """Tap points by name of a model of these nodes, each given as `"MatMul x w h"`; `w`, `v` and `u` are weights."""

    def made(*nodes, **more):
        weights = {name: square(4) for name in "wvu"} | more.pop("weights", {})
        last = nodes[-1].split()[-1]
        proto = model(
            [node(kind, " ".join(names[:-1]), names[-1]) for kind, *names in map(str.split, nodes)],
            weights,
            **({"outputs": [value(last, None)]} | more),
        )
        proto.graph.output[0].type.tensor_type.shape.SetInParent()
        return points(save(proto, tmp_path / "model.onnx"))

    return made


def defaults(found):
    return [(point.block, point.site, point.name) for point in found.values() if point.default]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("pre-norm", "Add"), ("post-norm", "LayerNormalization"), ("written-out", "Add"), ("rotary", "Add")],
)
def test_the_blocks_of_a_transformer_end_where_the_stream_leaves_them(exported, name, kind):
    file = read(exported(name))
    graph = Graph(file.outline, file.weights)
    found = [point for point in tap_points(graph) if point.default]
    assert [(point.block, point.site, point.channel_dim) for point in found] == [
        (block, "resid", -1) for block in range(BLOCKS)
    ]
    assert {graph.nodes[graph.made_by(point.name)].op_type for point in found} == {kind}


def test_what_attention_and_mlp_add_to_the_stream_is_called_so(exported):
    sites = [(point.block, point.site) for point in points(exported("pre-norm")).values()]
    for block in range(BLOCKS):
        assert [site for number, site in sites if number == block and site.endswith("_out")] == [
            "attn_out",
            "mlp_out",
        ]


def test_the_stages_of_a_convolutional_network_end_after_their_last_activation(exported):
    file = read(exported("network"))
    graph = Graph(file.outline, file.weights)
    found = [point for point in tap_points(graph) if point.default]
    assert [(point.block, point.site, point.channel_dim) for point in found] == [
        (0, "stage", 1),
        (1, "stage", 1),
        (2, "stage", 1),
    ]
    assert {graph.nodes[graph.made_by(point.name)].op_type for point in found} == {"Relu"}


def test_an_add_of_a_value_and_what_weights_made_of_it_is_residual(made):
    found = made("MatMul x w h", "Relu h r", "Add r x y")
    assert defaults(found) == [(0, "resid", "y")]


@pytest.mark.parametrize(
    "nodes",
    [
        ["MatMul x w h", "Add h b y"],
        ["Relu x r", "Add r x y"],
        ["MatMul x w q", "MatMul x v k", "Add q k y"],
        ["MatMul x w h", "Add h m y"],
    ],
    ids=["bias", "no weights", "two projections", "another input"],
)
def test_other_adds_are_not(made, nodes):
    found = made(
        *nodes,
        weights={"b": square(4)[0]},
        inputs=[value("x", ["batch", 4]), value("m", ["batch", 4])],
    )
    assert defaults(found) == []


def test_blocks_are_numbered_in_depth_order_and_what_lies_between_belongs_to_them(made):
    found = made("MatMul x w h", "Add h x y", "MatMul y v i", "Add i y z", "Relu z o")
    assert {name: point.block for name, point in found.items()} == {"h": 0, "y": 0, "i": 1, "z": 1, "o": None}


def test_parallel_attention_and_mlp_are_one_block(made):
    found = made(
        "MatMul x w q", "Softmax q s", "MatMul s v a", "MatMul x u m", "Add a m b", "Add b x y",
        "MatMul y w q2", "Softmax q2 s2", "MatMul s2 v a2", "MatMul y u m2", "Add a2 m2 b2", "Add b2 y z",
    )  # fmt: skip
    assert defaults(found) == [(0, "resid", "y"), (1, "resid", "z")]


def test_adds_of_another_branch_do_not_lengthen_the_stream(made):
    """Features of each depth projected and summed up on the way back, as detectors do."""
    found = made(
        "MatMul x w h", "Add h x y", "MatMul y v i", "Add i y z", "MatMul z w j", "Add j z e",
        "MatMul e u top", "MatMul z u middle", "Add top middle side",
    )  # fmt: skip
    assert [name for *_, name in defaults(found)] == ["y", "z", "e"]


def test_a_sum_that_is_gated_by_weights_is_the_stream_before_them(made):
    found = made("MatMul x w h", "Add h x y", "MatMul y u g", "Mul y g z", "MatMul z v i", "Add i z e")
    assert [name for *_, name in defaults(found)] == ["y", "e"]


def test_only_floating_point_values_that_depend_on_the_request_are_points(tmp_path):
    proto = model(
        [
            node("Shape", "x", "shape"),
            node("Cast", "shape", "sizes", to=TensorProto.FLOAT),
            node("Cast", "x", "number", to=TensorProto.INT64),
            node("Add", "w w", "constant"),
            node("Cast", "x", "half", to=TensorProto.BFLOAT16),
            node("MatMul", "x constant", "y"),
        ],
        {"w": square()},
    )
    assert list(points(save(proto, tmp_path / "model.onnx"))) == ["half", "y"]


def test_a_point_has_the_name_of_its_node_too(made):
    assert made("MatMul x w y")["y"].node == "y_node"


@pytest.mark.parametrize(
    ("nodes", "dim"),
    [
        (["MatMul x w h", "Add h b y"], -1),
        (["MatMul x w h", "Relu h g", "Mul g x y"], -1),
        (["GlobalAveragePool x y"], 1),
        (["Transpose x y"], None),
    ],
)
def test_channels_are_where_the_nearest_node_says(made, nodes, dim):
    inputs = [value("x", ["batch", 4, 4])]
    assert made(*nodes, weights={"b": square(4)[0]}, inputs=inputs)["y"].channel_dim == dim


def test_what_an_inner_graph_takes_counts_as_an_input_of_its_node(tmp_path):
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["b"])], "branch", [], [value("b", ["batch", 4])]
    )
    proto = model(
        [node("If", "when", "c", then_branch=branch, else_branch=branch), node("Add", "c x", "y")],
        {"w": square()},
        inputs=[value("x", ["batch", 4]), value("when", [], TensorProto.BOOL)],
    )
    assert "c" in points(save(proto, tmp_path / "model.onnx"))
