"""What an ONNX file may refer to, and what its weights are once it is read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sidecar.errors import ModelError
from sidecar.runtime.onnx_file import read
from tests.runtime.graphs import model, node, save, square, value

WEIGHTS = square(32)


def matmul():
    wide = [value("x", ["batch", 32])], [value("y", ["batch", 32])]
    return model([node("MatMul", "x w", "y")], {"w": WEIGHTS}, inputs=wide[0], outputs=wide[1])


def refer(tensor, location, **entries):
    """Make `tensor` external data of the file `location`."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(text))


def external(folder, location="w.bin", **entries):
    """A model in `folder` whose one weight lies at `location`, in a file of 64 bytes and the weight."""
    proto = matmul()
    refer(proto.graph.initializer[0], location, **({"offset": 64, "length": WEIGHTS.nbytes} | entries))
    return save(proto, folder / "model.onnx")


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    for name in (inside / "w.bin", tmp_path / "outside.bin"):
        name.write_bytes(bytes(64) + WEIGHTS.tobytes())
    return inside


def test_weights_of_the_graph_are_taken_out_of_it(tmp_path):
    file = read(save(matmul(), tmp_path / "model.onnx"))
    assert np.array_equal(file.weights["w"], WEIGHTS)
    assert len(file.graph.SerializeToString()) < 300


def test_external_weights_are_mapped_at_their_offset(folder):
    weights = read(external(folder)).weights["w"]
    assert np.array_equal(weights, WEIGHTS)
    assert not weights.flags.writeable


def test_no_location_of_the_file_reaches_onnx_runtime(folder):
    assert b"w.bin" not in read(external(folder)).graph.SerializeToString()


def test_external_data_may_lie_in_a_folder_of_the_model_s(folder):
    (folder / "deep").mkdir()
    (folder / "w.bin").rename(folder / "deep" / "w.bin")
    assert np.array_equal(read(external(folder, "deep/./w.bin")).weights["w"], WEIGHTS)


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    external(folder)
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    assert np.array_equal(read(tmp_path / "link" / "model.onnx").weights["w"], WEIGHTS)


def test_a_model_that_is_a_link_has_its_external_data_where_the_link_lies(folder, tmp_path):
    path = external(folder)
    path.rename(tmp_path / "blob")
    path.symlink_to(tmp_path / "blob")
    assert np.array_equal(read(path).weights["w"], WEIGHTS)


@pytest.mark.parametrize(
    "location",
    ["../outside.bin", "deep/../../outside.bin", "..", "", ".", "/etc/passwd", "//etc/passwd", "a\0b"],
)
def test_a_path_out_of_the_folder_is_refused(folder, location):
    with pytest.raises(ModelError, match="must be a path inside the model's folder"):
        read(external(folder, location))


def test_a_path_without_a_folder_confines_to_the_current_one(folder, monkeypatch):
    external(folder, "../outside.bin")
    monkeypatch.chdir(folder)
    with pytest.raises(ModelError, match="must be a path inside the model's folder"):
        read(Path("model.onnx"))
    external(folder)
    assert np.array_equal(read(Path("model.onnx")).weights["w"], WEIGHTS)


@pytest.mark.parametrize("target", ["../outside.bin", "w.bin", "nowhere"])
def test_a_symbolic_link_is_refused_wherever_it_leads(folder, target):
    (folder / "link").symlink_to(target)
    with pytest.raises(ModelError, match="'link' of tensor 'w' passes through a symbolic link"):
        read(external(folder, "link"))


def test_a_symbolic_link_on_the_way_is_refused(folder, tmp_path):
    (folder / "deep").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ModelError, match="passes through a symbolic link"):
        read(external(folder, "deep/outside.bin"))


def test_a_hard_link_is_refused(folder, tmp_path):
    os.link(tmp_path / "outside.bin", folder / "hard")
    with pytest.raises(ModelError, match="is a hard link, must be a file with one name"):
        read(external(folder, "hard"))


def test_a_folder_and_a_pipe_are_no_external_data(folder):
    (folder / "deep").mkdir()
    os.mkfifo(folder / "pipe")
    for location in ("deep", "pipe"):
        with pytest.raises(ModelError, match="is not a regular file"):
            read(external(folder, location))


@pytest.mark.parametrize("location", ["gone", "gone/w.bin", "w.bin/w.bin"])
def test_a_file_that_is_not_there_is_named(folder, location):
    with pytest.raises(ModelError, match=f"external data '{location}' of tensor 'w' cannot be opened"):
        read(external(folder, location))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": -64}, "offset '-64', must be a number from 0"),
        ({"offset": "1_0"}, "offset '1_0', must be a number from 0"),
        ({"length": "9" * 400}, "length '9{40}', must be a number"),
        ({"offset": 2**62}, "is bytes 4611686018427387904 to .* of a file of 4160"),
        ({"offset": 65}, "is bytes 65 to 4161 of a file of 4160"),
        ({"length": 4095}, "has 4095 bytes, its shape needs 4096"),
        ({"length": 10**15}, "has 1000000000000000 bytes, its shape needs 4096"),
        ({"__class__": "x"}, "has key '__class__', must be"),
    ],
)
def test_entries_of_external_data_are_checked(folder, entries, message):
    with pytest.raises(ModelError, match=message):
        read(external(folder, **entries))


def test_an_entry_given_twice_is_refused(folder):
    proto = matmul()
    refer(proto.graph.initializer[0], "w.bin")
    proto.graph.initializer[0].external_data.add(key="location", value="other.bin")
    with pytest.raises(ModelError, match="must have one location, and each key once"):
        read(save(proto, folder / "model.onnx"))


def test_a_shape_larger_than_the_file_makes_no_array(folder):
    proto = matmul()
    refer(proto.graph.initializer[0], "w.bin")
    proto.graph.initializer[0].dims[:] = [2**40, 2**40]
    with pytest.raises(ModelError, match="its shape needs 4835703278458516698824704"):
        read(save(proto, folder / "model.onnx"))


@pytest.mark.parametrize("dims", [[-1, 32], [64, 32], [2**40, 2**40]])
def test_an_initializer_that_holds_something_else_is_refused(tmp_path, dims):
    proto = matmul()
    proto.graph.initializer[0].dims[:] = dims
    with pytest.raises(ModelError, match=r"'w' (has shape|does not hold what it declares)"):
        read(save(proto, tmp_path / "model.onnx"))


def hidden_places():
    """Name -> a model with an external tensor where a reader may forget to look."""
    tensor = numpy_helper.from_array(np.ones((2, 4), np.float32), "c")
    refer(tensor, "../outside.bin", length=32)
    branch = helper.make_graph([], "branch", [], [value("c", [2, 4])], [tensor])
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=tensor)], "branch", [], [value("c", [2, 4])]
    )
    function = helper.make_function(
        "own", "F", ["x"], ["y"], [helper.make_node("Constant", [], ["c"], value=tensor), node("Add", "x c", "y")],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    condition = {"when": np.array(True)}
    sum_up = node("Add", "x c", "y")
    with_function = model([node("F", "x", "y", domain="own")], domains=["own"])
    with_function.functions.append(function)
    default = model([node("F", "x", "y", domain="own")], domains=["own"])
    default.functions.append(
        helper.make_function(
            "own", "F", ["x"], ["y"], [node("Identity", "x", "y")], [helper.make_opsetid("", 20)],
            attribute_protos=[helper.make_attribute("c", tensor)],
        )
    )  # fmt: skip
    listed = model([node("Identity", "x", "y")])
    listed.graph.node[0].attribute.append(helper.make_attribute("several", [tensor]))
    sparse = model([node("Identity", "x", "y")])
    sparse.graph.sparse_initializer.add(values=tensor)
    return {
        "constant": model([helper.make_node("Constant", [], ["c"], value=tensor), sum_up]),
        "branch": model([node("If", "when", "c", then_branch=branch, else_branch=branch), sum_up], condition),
        "inner": model([node("If", "when", "c", then_branch=inner, else_branch=inner), sum_up], condition),
        "function": with_function,
        "default": default,
        "listed": listed,
        "sparse": sparse,
    }


@pytest.mark.parametrize("place", sorted(hidden_places()))
def test_external_data_is_confined_wherever_it_is_named(tmp_path, place):
    with pytest.raises(ModelError, match=r"'\.\./outside\.bin' .*must be a path inside the model's folder"):
        read(save(hidden_places()[place], tmp_path / "model.onnx"))


def test_external_data_of_a_constant_is_read_into_the_graph(tmp_path):
    proto = hidden_places()["constant"]
    constant = proto.graph.node[0].attribute[0].t
    constant.external_data[0].value = "c.bin"
    (tmp_path / "c.bin").write_bytes(np.full((2, 4), 3, np.float32).tobytes())
    file = read(save(proto, tmp_path / "model.onnx"))
    assert np.array_equal(numpy_helper.to_array(file.graph.graph.node[0].attribute[0].t), np.full((2, 4), 3))


def test_training_graphs_are_dropped(tmp_path):
    proto = matmul()
    proto.training_info.add().algorithm.name = "never run"
    assert not read(save(proto, tmp_path / "model.onnx")).graph.training_info


def test_operators_of_a_foreign_domain_are_refused(tmp_path):
    proto = model([node("Run", "x", "y", domain="com.example")], domains=["com.example"])
    with pytest.raises(ModelError, match=r"operator com\.example::Run is of no domain"):
        read(save(proto, tmp_path / "model.onnx"))


def test_a_compiled_binary_is_refused(tmp_path):
    proto = model([node("EPContext", "x", "y", domain="com.microsoft")], domains=["com.microsoft"])
    with pytest.raises(ModelError, match="EPContext refers to a compiled binary"):
        read(save(proto, tmp_path / "model.onnx"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a valid ONNX model"),
        (b"\x08\x0a", "is not a valid ONNX model"),
        (matmul().SerializeToString().replace(b"MatMul", b"Mat\xfful"), "is not a valid ONNX model"),
        (b"not a model at all", "is not an ONNX file"),
        (model([node("Add", "x gone", "y")]).SerializeToString(), "is not a valid ONNX model"),
        (model([node("NoSuchThing", "x", "y")]).SerializeToString(), "is not a valid ONNX model"),
    ],
)
def test_a_file_that_is_no_model_is_named(tmp_path, content, message):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"model\.onnx {message}"):
        read(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "gone.onnx", tmp_path):
        with pytest.raises(ModelError, match="is not a file"):
            read(path)


def test_a_file_larger_than_a_message_can_be_is_refused_unread(tmp_path):
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(ModelError, match="has 2147483648 bytes, must have at most 2147483647"):
        read(path)


@given(st.data())
def test_whatever_is_cut_out_of_a_model_ends_in_a_model_error_or_a_model(tmp_path_factory, data):
    content = matmul().SerializeToString()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(start + 8, len(content))))
    filler = data.draw(st.binary(max_size=4))
    path = tmp_path_factory.mktemp("cut") / "model.onnx"
    path.write_bytes(content[:start] + filler + content[end:])
    with contextlib.suppress(ModelError):
        read(path)


@pytest.mark.parametrize(
    "element_type", [onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT4]
)
def test_weights_of_other_types_survive(tmp_path, element_type):
    values = np.tile(np.array([1, -2, 3, -4], np.float32), 512)
    tensor = helper.make_tensor("w", element_type, [2048], values)
    proto = model([node("Identity", "x", "y")])
    proto.graph.initializer.append(tensor)
    file = read(save(proto, tmp_path / "model.onnx"))
    if element_type == onnx.TensorProto.INT4:
        assert file.graph.graph.initializer[0] == tensor
    else:
        expected = numpy_helper.to_array(tensor)
        assert file.weights["w"].tobytes() == expected.tobytes()
