"""Messages in, checked tensors out, and the way back."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sidecar._pb import open_inference_pb2 as pb
from sidecar.errors import InvalidInputError
from sidecar.server import codec
from sidecar.types import DATATYPES, InferReply, Servable, Tensor, TensorSpec

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def a_model(*specs, max_rows=0):
    return Servable("m", "1", "python", specs, specs, max_rows, start=None)  # never executed here


@st.composite
def tensors(draw, datatypes=tuple(DATATYPES)):
    datatype = draw(st.sampled_from(datatypes))
    shape = draw(SHAPES)
    if datatype != "BYTES":
        return Tensor(datatype, draw(hnp.arrays(DATATYPES[datatype], shape)))
    values = draw(st.lists(st.binary(max_size=9), min_size=math.prod(shape), max_size=math.prod(shape)))
    array = np.empty(len(values), np.object_)
    array[:] = values
    return Tensor(datatype, array.reshape(shape))


def message_of(**inputs):
    message = pb.ModelInferRequest(model_name="m")
    for name, tensor in inputs.items():
        message.inputs.add(name=name, datatype=tensor.datatype, shape=tensor.array.shape)
        message.raw_input_contents.append(codec.to_raw(tensor))
    return message


def decode(message, servable, **beside):
    return codec.decode(message, servable, **{"id": "r", "deadline": None, **beside})


def same(one, other):
    return (
        one.datatype == other.datatype
        and one.array.shape == other.array.shape
        and one.array.dtype == other.array.dtype
        and codec.to_raw(one) == codec.to_raw(other)
    )


@given(tensor=tensors())
def test_raw_contents_round_trip_for_every_datatype_and_shape(tensor):
    servable = a_model(TensorSpec("x", tensor.datatype, (-1,) * tensor.array.ndim))
    request = decode(message_of(x=tensor), servable)
    assert same(request.inputs["x"], tensor)
    response = codec.encode(InferReply(request.inputs), pb.ModelInferRequest(), servable, id="r")
    (output,) = response.outputs
    back = codec.from_raw(response.raw_output_contents[0], output.datatype, tuple(output.shape), "output 'x'")
    assert same(Tensor(output.datatype, back), tensor)


@given(tensor=tensors(datatypes=tuple(codec.CONTENTS)))
def test_typed_contents_mean_the_same_as_raw_ones(tensor):
    servable = a_model(TensorSpec("x", tensor.datatype, (-1,) * tensor.array.ndim))
    message = pb.ModelInferRequest()
    entry = message.inputs.add(name="x", datatype=tensor.datatype, shape=tensor.array.shape)
    getattr(entry.contents, codec.CONTENTS[tensor.datatype]).extend(tensor.array.ravel().tolist())
    assert np.array_equal(
        decode(message, servable).inputs["x"].array,
        tensor.array,
        equal_nan=tensor.datatype.startswith("FP"),
    )


@given(tensor=tensors(), cut=st.integers(1, 8), longer=st.booleans())
def test_raw_contents_of_any_other_length_are_refused(tensor, cut, longer):
    raw = codec.to_raw(tensor)
    wrong = raw + b"\0" * cut if longer else raw[:-cut]
    if wrong == raw:
        return
    with pytest.raises(InvalidInputError, match=r"input 'x' (has|ends)"):
        codec.from_raw(wrong, tensor.datatype, tensor.array.shape, "x")


@st.composite
def entries(draw):
    entry = pb.ModelInferRequest.InferInputTensor(
        name=draw(st.sampled_from(["x", "y", "z", ""])),
        datatype=draw(st.sampled_from(["FP32", "BYTES", "INT8", ""])),
        shape=draw(st.lists(st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**62]), max_size=3)),
    )
    for field in draw(st.sets(st.sampled_from(["fp32_contents", "int_contents"]))):
        getattr(entry.contents, field).extend([1] * draw(st.integers(0, 4)))
    return entry


@given(
    inputs=st.lists(entries(), max_size=3),
    raw=st.lists(st.binary(max_size=24), max_size=3),
    max_rows=st.integers(0, 3),
)
@settings(max_examples=300)
def test_whatever_a_message_says_it_is_a_request_of_the_right_form_or_an_invalid_input(inputs, raw, max_rows):
    message = pb.ModelInferRequest(inputs=inputs, raw_input_contents=raw)
    specs = [TensorSpec("x", "FP32", (-1, -1)), TensorSpec("y", "BYTES", (-1,))]
    try:
        request = decode(message, a_model(*specs, max_rows=max_rows))
    except InvalidInputError:
        return
    assert list(request.inputs) == ["x", "y"]
    for spec in specs:
        tensor = request.inputs[spec.name]
        assert tensor.datatype == spec.datatype
        assert tensor.array.ndim == len(spec.shape)
        assert not max_rows or tensor.array.shape[0] == request.rows <= max_rows


def test_raw_contents_are_viewed_not_copied():
    raw = np.arange(6, dtype=np.float32).tobytes()
    array = codec.from_raw(raw, "FP32", (2, 3), "x")
    assert np.shares_memory(array, np.frombuffer(raw, np.uint8))


def test_inputs_come_in_the_models_order_not_the_messages():
    one = Tensor("INT8", np.zeros((2,), np.int8))
    request = decode(
        message_of(b=one, a=one), a_model(TensorSpec("a", "INT8", (2,)), TensorSpec("b", "INT8", (2,)))
    )
    assert list(request.inputs) == ["a", "b"]


def test_rows_are_the_common_first_dimension_or_one_without_batching():
    four = Tensor("INT8", np.zeros((4, 2), np.int8))
    spec = TensorSpec("x", "INT8", (-1, 2))
    assert decode(message_of(x=four), a_model(spec, max_rows=8)).rows == 4
    assert decode(message_of(x=four), a_model(spec)).rows == 1


def test_id_deadline_and_parameters_are_taken_over():
    message = message_of(x=Tensor("INT8", np.zeros((1,), np.int8)))
    message.parameters["flag"].bool_param = False
    message.parameters["share"].double_param = 0.5
    message.parameters["big"].uint64_param = 2**64 - 1
    request = decode(message, a_model(TensorSpec("x", "INT8", (1,))), id="abc", deadline=9.5)
    assert (request.id, request.deadline) == ("abc", 9.5)
    assert request.parameters == {"flag": False, "share": 0.5, "big": 2**64 - 1}


def test_the_reply_carries_the_asked_outputs_in_the_asked_order():
    specs = [TensorSpec(name, "INT8", (1,)) for name in "abc"]
    reply = InferReply({name: Tensor("INT8", np.array([ord(name)], np.int8)) for name in "abc"})
    message = pb.ModelInferRequest()
    for name in "ca":
        message.outputs.add(name=name)
    response = codec.encode(reply, message, a_model(*specs), id="r")
    assert [output.name for output in response.outputs] == ["c", "a"]
    assert list(response.raw_output_contents) == [b"c", b"a"]
    assert (response.model_name, response.model_version, response.id) == ("m", "1", "r")


def test_a_reply_in_column_order_is_sent_in_row_order():
    array = np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3))
    assert codec.to_raw(Tensor("INT16", array)) == np.arange(6, dtype=np.int16).tobytes()


FP32 = np.zeros((2, 3), np.float32)
TWO_INPUTS = (TensorSpec("x", "FP32", (-1, 3)), TensorSpec("n", "INT8", (-1,)))


def good():
    return message_of(x=Tensor("FP32", FP32), n=Tensor("INT8", np.zeros((2,), np.int8)))


def typed(**fields):
    message = pb.ModelInferRequest()
    entry = message.inputs.add(name="x", datatype="FP32", shape=[2, 3])
    entry.contents.fp32_contents.extend([0.0] * 6)
    entry = message.inputs.add(name="n", datatype="INT8", shape=[2])
    for name, values in fields.items():
        getattr(entry.contents, name).extend(values)
    return message


def edited(edit):
    message = good()
    edit(message)
    return message


def set_shape(position, *shape):
    def edit(message):
        message.inputs[position].shape[:] = shape

    return edited(edit)


def set_raw(position, raw):
    return edited(lambda message: message.raw_input_contents.__setitem__(position, raw))


def region(entries):
    entries[0].parameters["shared_memory_region"].string_param = "r"


def ask(*names):
    def edit(message):
        for name in names:
            message.outputs.add(name=name)

    return edited(edit)


BAD = {
    "wrong name": (
        edited(lambda message: setattr(message.inputs[0], "name", "y")),
        "no input 'y', the model takes 'x', 'n'",
    ),
    "given twice": (
        edited(lambda message: setattr(message.inputs[1], "name", "x")),
        "input 'x' is given twice, must be given once",
    ),
    "missing": (
        message_of(x=Tensor("FP32", FP32)),
        "missing input 'n', the model takes 'x', 'n'",
    ),
    "datatype": (
        edited(lambda message: setattr(message.inputs[0], "datatype", "FP64")),
        "input 'x' has datatype 'FP64', must be FP32",
    ),
    "rank": (
        set_shape(0, 6),
        "input 'x' has shape [6], must be [-1, 3] where -1 is any size from 0",
    ),
    "trailing dimension": (
        set_shape(0, 3, 2),
        "input 'x' has shape [3, 2], must be [-1, 3] where -1 is any size from 0",
    ),
    "negative dimension": (
        set_shape(0, 2, -3),
        "input 'x' has shape [2, -3], must be [-1, 3] where -1 is any size from 0",
    ),
    "negative rows": (set_shape(0, -2, 3), "input 'x' has -2 rows, must have 1..4"),
    "no rows": (set_shape(0, 0, 3), "input 'x' has 0 rows, must have 1..4"),
    "too many rows": (set_shape(0, 5, 3), "input 'x' has 5 rows, must have 1..4"),
    "unequal rows": (
        edited(
            lambda message: (
                message.inputs[1].shape.__setitem__(0, 1),
                message.raw_input_contents.__setitem__(1, b"0"),
            )
        ),
        "all inputs must have the same number of rows: 'x' has 2, 'n' has 1",
    ),
    "truncated": (set_raw(0, b"\0" * 23), "input 'x' has 23 bytes, shape [2, 3] of FP32 needs 24"),
    "too long": (set_raw(1, b"\0" * 3), "input 'n' has 3 bytes, shape [2] of INT8 needs 2"),
    "raw for some": (
        edited(lambda message: message.raw_input_contents.pop()),
        "raw_input_contents has 1 entries for 2 inputs, must have one each",
    ),
    "raw and typed": (
        edited(lambda message: message.inputs[0].contents.fp32_contents.append(1)),
        "input 'x' has contents beside raw_input_contents, must come one way only",
    ),
    "typed too few": (
        typed(int_contents=[1]),
        "input 'n' has 1 values in int_contents, shape [2] needs 2",
    ),
    "typed in the wrong field": (
        typed(int_contents=[1, 2], uint_contents=[1, 2]),
        "input 'n' is INT8 and has 'uint_contents', must have int_contents only",
    ),
    "typed out of range": (
        typed(int_contents=[1, 128]),
        "input 'n' has a value outside INT8, -128..127",
    ),
    "empty parameter": (
        edited(lambda message: message.parameters["p"].Clear()),
        "parameter 'p' has no value, must be bool, integer, double or string",
    ),
    "shared memory": (
        edited(lambda message: region(message.inputs)),
        "input 'x' has parameter 'shared_memory_region', which is not supported",
    ),
    "unknown output": (ask("z"), "no output 'z', the model gives 'x', 'n'"),
    "output twice": (ask("x", "x"), "output 'x' is asked for twice, must be asked for once"),
    "output in shared memory": (
        edited(lambda message: (message.outputs.add(name="x"), region(message.outputs))),
        "output 'x' has parameter 'shared_memory_region', which is not supported",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_told_what_was_wrong_and_what_is_allowed(case):
    message, text = BAD[case]
    with pytest.raises(InvalidInputError) as refused:
        decode(message, a_model(*TWO_INPUTS, max_rows=4))
    assert str(refused.value) == text


def test_the_unchanged_request_is_good():
    assert decode(good(), a_model(*TWO_INPUTS, max_rows=4)).rows == 2
    assert decode(typed(int_contents=[1, 2]), a_model(*TWO_INPUTS, max_rows=4)).rows == 2


@pytest.mark.parametrize("shape", [[-1], [-8]])
def test_a_negative_size_is_refused_where_any_size_is_allowed(shape):
    message = pb.ModelInferRequest(raw_input_contents=[b""])
    message.inputs.add(name="x", datatype="BYTES", shape=shape)
    with pytest.raises(InvalidInputError, match=r"must be \[-1\] where -1 is any size from 0"):
        decode(message, a_model(TensorSpec("x", "BYTES", (-1,))))


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_without_raw_contents_is_refused(datatype):
    message = pb.ModelInferRequest()
    message.inputs.add(name="x", datatype=datatype, shape=[1])
    with pytest.raises(InvalidInputError, match=f"{datatype}, which must come in raw_input_contents"):
        decode(message, a_model(TensorSpec("x", datatype, (1,))))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\1\0\0", "ends inside BYTES value 0 of 2"),
        (b"\1\0\0\0a\xff\xff\xff\xffb", "ends inside BYTES value 1 of 2"),
        (b"\0\0\0\0" * 3, "has 4 bytes after its 2 BYTES values"),
    ],
)
def test_bytes_that_are_not_lengths_and_values_are_refused(raw, text):
    with pytest.raises(InvalidInputError, match=text):
        codec.from_raw(raw, "BYTES", (2,), "x")


def test_a_bool_that_is_neither_0_nor_1_is_refused():
    with pytest.raises(InvalidInputError, match="neither 0 nor 1"):
        codec.from_raw(b"\0\1\2", "BOOL", (3,), "x")


@pytest.mark.parametrize("shape", [[2**31, 2**31, 2**31], [2**62, 4, 0], [2**31, 1, 1]])
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_a_shape_of_astronomic_size_is_refused_before_memory_is_taken(shape, datatype):
    message = pb.ModelInferRequest(raw_input_contents=[b""])
    message.inputs.add(name="x", datatype=datatype, shape=shape)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match="must have at most 2147483647 values"):
            decode(message, a_model(TensorSpec("x", datatype, (-1, -1, -1))))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_large_shape_with_little_behind_it_takes_no_memory():
    message = pb.ModelInferRequest(raw_input_contents=[b"\0" * 8])
    message.inputs.add(name="x", datatype="BYTES", shape=[2**31 - 1])
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match="ends inside BYTES value 2 of 2147483647"):
            decode(message, a_model(TensorSpec("x", "BYTES", (-1,))))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
