"""Loading ONNX models, what their settings must say, and the way of tensors into and out of them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from onnx import TensorProto

from sidecar import runtime
from sidecar.errors import ConfigError, ModelError
from sidecar.runtime.onnx_external import ELEMENT_TYPES
from sidecar.settings import ModelSettings
from sidecar.types import DATATYPES, Observer, Tensor
from tests.runtime.graphs import model, node, save, square, value

X = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
Y = {**X, "name": "y"}


@pytest.fixture
def load(tmp_path):
    """A model of hand-made nodes under the onnx runtime; `y = x + x @ w` without any."""

    def load(proto=None, inputs=(X,), outputs=(Y,), **more):
        proto = proto or model([node("MatMul", "x w", "h"), node("Add", "h x", "y")], {"w": square()})
        path = save(proto, tmp_path / "model.onnx")
        return runtime.load(
            ModelSettings(name="m", runtime="onnx", path=path, inputs=inputs, outputs=outputs, **more)
        )

    return load


def one(array, datatype="FP32", name="x"):
    return {name: Tensor(datatype, array)}


def test_an_answer_is_that_of_the_graph(load):
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    answer = load().plain(one(x))["y"]
    assert (answer.datatype, answer.array.dtype) == ("FP32", np.float32)
    assert np.allclose(answer.array, x + x @ square())


def test_without_onnx_runtime_the_extra_is_named(load, monkeypatch):
    for module in [name for name in sys.modules if name.startswith("sidecar.runtime.onnx")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"runtime onnx needs .*pip install 'activation-sidecar\[cpu\]'"):
        load()


def test_a_factory_is_nothing_for_onnx():
    settings = ModelSettings(
        name="m", runtime="onnx", source="package.module:factory", inputs=[X], outputs=[Y]
    )
    with pytest.raises(ConfigError, match="runtime onnx needs path, an ONNX file"):
        runtime.load(settings)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "it needs pip install 'activation-sidecar\\[gpu\\]'|torch finds no CUDA"),
        ("meta", "the onnx runtime takes cpu and cuda"),
        ("abacus", "device abacus cannot be used"),
    ],
)
def test_a_device_that_is_not_there_is_named(load, device, message):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ModelError, match=message):
        load(device=device)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (({**X, "name": "z"},), (Y,), r"inputs are z in the settings, the model takes x FP32 \[batch, 4\]"),
        ((X, {**X, "name": "z"}), (Y,), "inputs are x, z in the settings"),
        ((X,), ({**Y, "name": "z"},), r"the model has no output z, it gives y FP32 \[batch, 4\]"),
        (({**X, "datatype": "FP64"},), (Y,), r"x is FP64 \[-1, 4\] in the settings, in the model x FP32"),
        (({**X, "shape": [-1, 5]},), (Y,), r"x is FP32 \[-1, 5\] in the settings, in the model x FP32 \[batch, 4\]"),
        (({**X, "shape": [-1, -1]},), (Y,), r"x is FP32 \[-1, -1\] in the settings"),
        (({**X, "shape": [-1, 4, 1]},), (Y,), r"x is FP32 \[-1, 4, 1\] in the settings"),
        ((X,), ({**Y, "datatype": "INT64"},), r"output y is INT64 \[-1, 4\] in the settings"),
        (({**X, "datatype": "BYTES"},), (Y,), "x has datatype BYTES; the onnx runtime takes BOOL, UINT8"),
    ],
)  # fmt: skip
def test_settings_that_are_not_the_model_s_are_told_apart(load, inputs, outputs, message):
    with pytest.raises(ModelError, match=message):
        load(inputs=inputs, outputs=outputs)


def test_a_first_dimension_of_one_size_is_no_batch(load):
    proto = model([node("Identity", "x", "y")], inputs=[value("x", [1, 4])], outputs=[value("y", [1, 4])])
    fixed = {**X, "shape": [1, 4]}
    with pytest.raises(
        ModelError, match=r"first dimension of 1 in the model: .* or set batching\.max_rows = 0"
    ):
        load(proto, [fixed], [{**fixed, "name": "y"}])
    alone = load(proto, [fixed], [{**fixed, "name": "y"}], batching={"max_rows": 0})
    assert alone.plain(one(np.ones((1, 4), np.float32)))["y"].array.tolist() == [[1.0] * 4]


def test_inputs_may_stand_in_any_order_and_outputs_be_left_out(load):
    proto = model(
        [node("Identity", "x", "y"), node("Identity", "z", "rest")],
        inputs=[value("x", ["batch", 4]), value("z", ["batch", 4])],
        outputs=[value("rest", ["batch", 4]), value("y", ["batch", 4])],
    )
    loaded = load(proto, [{**X, "name": "z"}, X])
    both = one(np.ones((1, 4), np.float32)) | one(np.zeros((1, 4), np.float32), name="z")
    assert {name: t.array.tolist() for name, t in loaded.plain(both).items()} == {"y": [[1.0] * 4]}


@pytest.mark.parametrize("datatype", sorted(ELEMENT_TYPES))
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_every_datatype_comes_out_as_it_went_in(load, datatype, rows):
    number = ELEMENT_TYPES[datatype]
    proto = model(
        [node("Identity", "x", "y")],
        inputs=[value("x", ["batch", 3], number)],
        outputs=[value("y", ["batch", 3], number)],
    )
    spec = {"datatype": datatype, "shape": [-1, 3]}
    loaded = load(proto, [{**spec, "name": "x"}], [{**spec, "name": "y"}])
    sent = np.arange(rows * 3).reshape(rows, 3).astype(DATATYPES[datatype])
    answer = loaded.plain(one(sent, datatype))["y"]
    assert (answer.datatype, answer.array.dtype) == (datatype, sent.dtype)
    assert np.array_equal(answer.array, sent)


def test_an_input_that_is_not_contiguous_is_read_as_it_is(load):
    x = np.arange(32, dtype=np.float32).reshape(8, 4)
    sparse = load().plain(one(x[::2]))["y"].array
    assert np.array_equal(sparse, load().plain(one(x[::2].copy()))["y"].array)


def test_what_onnx_runtime_raises_is_a_fault_of_the_model(load):
    with pytest.raises(RuntimeError, match="Expected: 4"):
        load().plain(one(np.ones((1, 5), np.float32)))


def test_a_graph_that_only_onnx_runtime_finds_wrong_is_refused(load):
    proto = model([node("Attention", "x", "y", domain="com.microsoft")], domains=["com.microsoft"])
    with pytest.raises(ModelError, match="ONNX Runtime cannot load the model"):
        load(proto)


def test_an_example_fits_the_inputs_and_is_the_same_each_time(load):
    first, second = load().example(3)["x"].array, load().example(3)["x"].array
    assert first.shape == (3, 4)
    assert first.dtype == np.float32
    assert np.array_equal(first, second)
    assert np.std(first) > 0


def test_shapes_are_those_of_a_run_and_scalars_have_none(load):
    proto = model(
        [node("MatMul", "x w", "h"), node("ReduceMax", "h", "top", keepdims=0), node("Add", "h top", "y")],
        {"w": square()},
    )
    loaded = load(proto)
    names = [point.name for point in loaded.tap_points()]
    assert names == ["h", "top", "y"]
    assert loaded.activation_shapes(names, loaded.example(2)) == {"h": (2, 4), "y": (2, 4)}
    assert loaded.activation_shapes(names, loaded.example(3)) == {"h": (3, 4), "y": (3, 4)}


class Seen:
    """An observer that keeps what it is shown."""

    def __init__(self):
        self.values, self.addresses = [], []

    def fold(self, x):
        self.values.append(x.clone())
        self.addresses.append(x.data_ptr())


def instrument(loaded, *names):
    seen = {name: Seen() for name in names}
    loaded.instrument({name: Observer(found.fold, print, ()) for name, found in seen.items()})
    return seen


def test_observers_see_the_values_of_the_instrumented_run_only(load):
    loaded = load()
    seen = instrument(loaded, "h", "y")
    x = np.arange(4, dtype=np.float32)[None]
    loaded.plain(one(x))
    assert not seen["h"].values
    answer = loaded.instrumented(one(x))["y"].array
    assert np.array_equal(seen["y"].values[0].numpy(), answer)
    assert np.allclose(seen["h"].values[0].numpy(), x @ square())


def test_a_tapped_value_is_read_where_onnx_runtime_put_it(load, monkeypatch):
    from sidecar.runtime import onnx_session

    given, from_dlpack = [], onnx_session.from_dlpack

    def noted(ortvalue):
        given.append(ortvalue.data_ptr())
        return from_dlpack(ortvalue)

    loaded = load()
    seen = instrument(loaded, "h")
    monkeypatch.setattr(onnx_session, "from_dlpack", noted)
    loaded.instrumented(loaded.example(8))
    assert seen["h"].addresses == given[1:]


@pytest.mark.parametrize(
    ("element_type", "dtype"),
    [
        (TensorProto.BFLOAT16, torch.bfloat16),
        (TensorProto.FLOAT16, torch.float16),
        (TensorProto.DOUBLE, torch.float64),
    ],
)
def test_a_tapped_value_keeps_its_type(load, element_type, dtype):
    proto = model([node("Cast", "x", "h", to=element_type), node("Cast", "h", "y", to=TensorProto.FLOAT)])
    loaded = load(proto)
    assert loaded.activation_formats(["h", "y"]) == {"h": str(dtype)[len("torch.") :], "y": "float32"}
    seen = instrument(loaded, "h")
    x = np.array([[1.0, 1.0009765625, 3.14159, -1e-3]], np.float32)
    loaded.instrumented(one(x))
    assert torch.equal(seen["h"].values[0], torch.from_numpy(x).to(dtype))


def test_the_weights_are_let_go_of_once_both_variants_have_them(load):
    loaded = load()
    instrument(loaded, "h")
    with pytest.raises(ModelError, match="instrumented already"):
        loaded.instrument({})


def test_a_tapped_value_of_an_input_that_is_run_again_is_that_of_the_graph(load):
    loaded, x = load(), np.arange(8, dtype=np.float32).reshape(2, 4)
    loaded.activation_shapes(["h"], one(x))
    loaded.instrument({"h": Observer(lambda _: None, lambda *_: None, ())})
    (found,) = loaded.activations("h", one(x))
    assert np.allclose(found.numpy(), x @ square())
