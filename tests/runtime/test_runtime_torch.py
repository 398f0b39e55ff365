"""Loading torch models, and the way of tensors into and out of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from sidecar import runtime
from sidecar.errors import ConfigError, InferenceError, ModelError
from sidecar.settings import ModelSettings
from sidecar.types import DATATYPES, Observer, Tensor

FLOATS = [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]


def load(factory="identity", inputs=FLOATS, outputs=None, **more):
    outputs = outputs or [{**spec, "name": spec["name"].upper()} for spec in inputs]
    source = factory if ":" in factory else f"tests.runtime.factories:{factory}"
    return runtime.load(ModelSettings(name="m", source=source, inputs=inputs, outputs=outputs, **more))


def output(name, datatype="FP32", shape=(-1, 3)):
    return {"name": name, "datatype": datatype, "shape": list(shape)}


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("no.such.module:build", r"source no\.such\.module:build cannot be imported: No module named 'no'"),
        ("tests.runtime.factories:gone", r"source .*:gone cannot be imported: .* has no attribute 'gone'"),
        ("no_model", r"source .*:no_model returned list, must return a torch\.nn\.Module"),
        (
            "not_callable",
            r"source .*:not_callable is a int, must be a function that returns a torch\.nn\.Module",
        ),
    ],
)
def test_a_factory_that_gives_no_model_is_named(factory, message):
    with pytest.raises(ModelError, match=message):
        load(factory)


def test_an_unknown_runtime_is_told_those_there_are():
    with pytest.raises(ConfigError, match="runtime 'tensorrt' is unknown; there are torch"):
        load(runtime="tensorrt")


def test_bytes_are_not_for_torch():
    with pytest.raises(ModelError, match="x has datatype BYTES; the torch runtime takes BOOL, UINT8"):
        load(inputs=[output("x", "BYTES")])


@pytest.mark.parametrize("device", ["cuda", "abacus"])
def test_a_device_that_is_not_there_is_named(device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ModelError, match=f"device {device} cannot be used"):
        load("linear", device=device)


def weights(tmp_path, **tensors):
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    return path


def test_weights_replace_what_the_factory_made(tmp_path):
    path = weights(tmp_path, weight=torch.ones(2, 3), bias=torch.tensor([0.0, 10.0]))
    model = load("linear", outputs=[output("y", shape=(-1, 2))], weights=path)
    answer = model.plain({"x": Tensor("FP32", np.ones((1, 3), np.float32))})
    assert answer["y"].array.tolist() == [[3.0, 13.0]]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.ones(2, 3)}, r"weights .* do not fit the model: .*Missing key.*bias"),
        (
            {"weight": torch.ones(2, 4), "bias": torch.ones(2)},
            r"do not fit the model: .*size mismatch for weight",
        ),
        (
            {"weight": torch.ones(2, 3), "bias": torch.ones(2), "spare": torch.ones(1)},
            r"do not fit the model: .*Unexpected key.*spare",
        ),
    ],
)
def test_weights_that_do_not_fit_are_told_apart(tmp_path, tensors, message):
    with pytest.raises(ModelError, match=f"(?s){message}"):
        load("linear", weights=weights(tmp_path, **tensors))


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"weights .*gone\.safetensors do not exist"):
        load("linear", weights=tmp_path / "gone.safetensors")


@pytest.mark.parametrize("content", [b"", b"not tensors at all", b'\x08\0\0\0\0\0\0\0{"a": 1}'])
def test_a_file_that_holds_no_tensors_is_named(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"weights .* are not a safetensors file"):
        load("linear", weights=path)


def test_a_folder_is_no_safetensors_file(tmp_path):
    with pytest.raises(ModelError, match="are not a safetensors file"):
        load("linear", weights=tmp_path)


@pytest.mark.parametrize("datatype", sorted(set(DATATYPES) - {"BYTES"}))
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_every_datatype_comes_out_as_it_went_in(datatype, rows):
    model = load(inputs=[output("x", datatype)])
    sent = np.arange(rows * 3).reshape(rows, 3).astype(DATATYPES[datatype])
    answer = model.plain({"x": Tensor(datatype, sent)})["X"]
    assert answer.datatype == datatype
    assert answer.array.dtype == sent.dtype
    assert np.array_equal(answer.array, sent)


def test_bfloat16_is_a_number_to_the_model():
    model = load("Scalar", inputs=[output("x", "BF16")])
    one = np.array([[0x3F80, 0x4000, 0xBF80]], np.uint16)
    assert model.plain({"x": Tensor("BF16", one)})["X"].array.tolist() == [[0x4000, 0x4080, 0xC000]]


@pytest.mark.parametrize("datatype", sorted(set(DATATYPES) - {"BYTES"}))
def test_an_example_fits_the_inputs_and_is_the_same_each_time(datatype):
    model = load(
        inputs=[
            output("x", datatype, (-1, 4, -1)),
            output("fixed", datatype, (2, 2)),
            output("s", datatype, ()),
        ]
    )
    example = model.example(5)
    assert [tensor.array.shape for tensor in example.values()] == [(5, 4, 8), (2, 2), ()]
    assert all(tensor.array.dtype == DATATYPES[datatype] for tensor in example.values())
    again = model.example(5)
    assert all(np.array_equal(example[name].array, again[name].array) for name in example)


def test_inputs_are_positional_in_the_order_of_the_settings():
    inputs = [output("b", "INT64"), output("a", "FP32")]
    model = load(
        "Sum", inputs=inputs, outputs=[output("sum", "FP64"), output("B", "INT64"), output("A", "FP32")]
    )
    answer = model.plain(model.example(2))
    assert [tensor.array.dtype for tensor in answer.values()] == [np.float64, np.int64, np.float32]
    assert list(answer) == ["sum", "B", "A"]


def test_a_tuple_may_hold_more_than_the_outputs():
    model = load("Sum", outputs=[output("sum", "FP64")])
    assert list(model.plain(model.example(1))) == ["sum"]


def test_a_mappings_outputs_are_taken_by_name():
    model = load("Mapping", outputs=[output("z"), output("y")])
    answer = model.plain({"x": Tensor("FP32", np.ones((1, 3), np.float32))})
    assert (answer["z"].array[0, 0], answer["y"].array[0, 0]) == (-1, 2)


def test_outputs_of_a_dataclass_go_by_name():
    model = load("Structured", outputs=[output("z"), output("y")])
    answer = model.plain({"x": Tensor("FP32", np.ones((1, 3), np.float32))})
    assert (answer["z"].array[0, 0], answer["y"].array[0, 0]) == (-1, 2)


def test_a_tuple_may_go_on_with_nothing():
    model = load("WithNothing", outputs=[output("y")])
    assert model.plain({"x": Tensor("FP32", np.ones((1, 3), np.float32))})["y"].array[0, 0] == 2


def test_without_a_batch_dimension_an_unknown_first_size_is_as_any_other():
    assert load("identity", batching={"max_rows": 0}).example(1)["x"].array.shape == (8, 3)


@pytest.mark.parametrize(
    ("factory", "outputs"),
    [
        ("Mapping", [output("y"), output("gone")]),
        ("Sum", [output("a", "FP64"), output("b"), output("c")]),
        ("Structured", [output("y"), output("gone")]),
        ("NotATensor", [output("y")]),
    ],
)
def test_outputs_that_do_not_come_are_told_by_name(factory, outputs):
    model = load(factory, outputs=outputs)
    with pytest.raises(InferenceError, match=r"did not return the outputs .* as tensors") as refused:
        model.plain(model.example(1))
    assert all(one["name"] in str(refused.value) for one in outputs)


def test_an_output_of_another_type_is_told():
    model = load("linear", outputs=[output("y", "FP16")])
    with pytest.raises(InferenceError, match=r"output y is torch\.float32, configured as FP16"):
        model.plain(model.example(1))


def tensors(module):
    return [*module.parameters(), *module.buffers()]


def test_both_variants_stand_on_the_same_weights():
    model = load("Shared")
    model.instrument({})
    plain, variant = model._model, model._instrumented
    assert variant is not plain
    assert variant.first is not plain.first
    pairs = zip(tensors(variant), tensors(plain), strict=True)
    assert all(a is b and a.data_ptr() == b.data_ptr() for a, b in pairs)
    assert variant.second.weight is variant.first.weight


def test_both_variants_answer_bitwise_the_same_and_dropout_is_off():
    model = load("Shared")
    model.instrument({})
    batch = model.example(7)
    plain, instrumented = model.plain(batch), model.instrumented(batch)
    assert plain["X"].array.tobytes() == instrumented["X"].array.tobytes()
    assert plain["X"].array.tobytes() == model.plain(batch)["X"].array.tobytes()


def test_what_is_installed_in_one_variant_does_not_touch_the_other():
    model, seen = load("Shared"), []
    model.instrument({"first": Observer(seen.append, lambda *_: None, ())})
    model.plain(model.example(1))
    assert seen == []
    model.instrumented(model.example(1))
    assert len(seen) == 1


def test_a_model_that_cannot_be_copied_is_a_model_error():
    with pytest.raises(ModelError, match="cannot be copied to look into it: a handle has no copy"):
        load("Uncopyable").instrument({})


def test_threads_are_set_where_the_model_runs():
    before = torch.get_num_threads()
    load(threads=1).prepare_thread()
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_concatenation_keeps_order_and_shares_no_memory(sizes):
    parts = [{"x": Tensor("INT64", np.full((size, 2), i))} for i, size in enumerate(sizes)]
    joined = runtime.concatenate(parts)["x"].array
    assert joined[:, 0].tolist() == [i for i, size in enumerate(sizes) for _ in range(size)]
    assert not any(np.shares_memory(joined, part["x"].array) for part in parts)


def test_a_lone_request_may_have_no_dimension_at_all():
    scalar = np.array(2.5, np.float32)
    (joined,) = runtime.concatenate([{"x": Tensor("FP32", scalar)}]).values()
    assert joined.array.shape == ()
    assert not np.shares_memory(joined.array, scalar)
