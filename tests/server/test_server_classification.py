"""Outputs as their highest values, in the words of Triton's extension."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tritonclient.grpc.aio
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.utils import InferenceServerException

from sidecar.server.classification import RANKED, classify
from sidecar.types import DATATYPES, Tensor, TensorSpec

SHAPES = arrays.array_shapes(min_dims=2, max_dims=3, max_side=5)


def parsed(tensor):
    return [[value.decode().split(":") for value in row] for row in tensor.array]


@pytest.mark.parametrize(
    ("row", "ranked"),
    [
        ([0.5, -1.0, 2.0], [b"2.000000:2", b"0.500000:0", b"-1.000000:1"]),
        ([1.0, 1.0, 1.0], [b"1.000000:0", b"1.000000:1", b"1.000000:2"]),
        ([math.nan, -math.inf, math.inf], [b"inf:2", b"-inf:1", b"nan:0"]),
        ([math.nan, 0.0, math.nan], [b"0.000000:1", b"nan:0", b"nan:2"]),
    ],
)
def test_the_highest_comes_first_equals_in_order_and_nan_last(row, ranked):
    found = classify(Tensor("FP32", np.array([row], np.float32)), 3, batched=True)
    assert (found.datatype, found.array.tolist()) == ("BYTES", [ranked])


@pytest.mark.parametrize("datatype", sorted(RANKED - {"BF16"}))
def test_every_datatype_with_an_order_can_be_ranked(datatype):
    values = np.array([[1, 3, 2]], DATATYPES[datatype])
    zeros = "" if "INT" in datatype else ".000000"
    expected = [f"3{zeros}:1".encode(), f"2{zeros}:2".encode()]
    assert classify(Tensor(datatype, values), 2, batched=True).array.tolist() == [expected]


def test_bfloat16_is_ranked_by_what_its_bits_mean():
    bits = np.array([[0x3F80, 0xC000, 0x4000]], np.uint16)  # 1, -2, 2
    found = classify(Tensor("BF16", bits), 3, batched=True)
    assert found.array.tolist() == [[b"2.000000:2", b"1.000000:0", b"-2.000000:1"]]


def test_without_a_batch_dimension_all_values_are_one_row():
    found = classify(Tensor("INT8", np.array([[1, 4], [3, 2]], np.int8)), 3, batched=False)
    assert found.array.tolist() == [b"4:1", b"3:2", b"2:3"]


@given(arrays.arrays(np.int64, SHAPES), st.integers(1, 30))
def test_each_row_has_its_own_highest_values_with_their_places(values, count):
    found = parsed(classify(Tensor("INT64", values), count, batched=True))
    for row, entries in zip(values.reshape(len(values), -1), found, strict=True):
        assert [int(value) for value, _ in entries] == sorted(row.tolist(), reverse=True)[:count]
        assert all(row[int(index)] == int(value) for value, index in entries)
        assert len({index for _, index in entries}) == len(entries)


async def test_a_client_gets_classes_of_one_output_and_values_of_another(serve, model, make_servable):
    specs = [TensorSpec("x", "FP32", (-1, 3)), TensorSpec("y", "FP32", (-1, 3))]
    values = np.array([[1.0, 3.0, 2.0], [0.0, -1.0, 5.0]], np.float32)
    inputs = [tritonclient.grpc.aio.InferInput(name, [2, 3], "FP32") for name in "xy"]
    for entry in inputs:
        entry.set_data_from_numpy(values)
    outputs = [
        tritonclient.grpc.aio.InferRequestedOutput("x", class_count=2),
        tritonclient.grpc.aio.InferRequestedOutput("y"),
    ]
    async with (
        serve(make_servable(model.execute, specs)) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        reply = await client.infer("echo", inputs, outputs=outputs)
    assert reply.as_numpy("x").tolist() == [[b"3.000000:1", b"2.000000:2"], [b"5.000000:2", b"0.000000:0"]]
    np.testing.assert_array_equal(reply.as_numpy("y"), values)


@pytest.mark.parametrize("datatype", ["BYTES", "BOOL"])
async def test_what_has_no_order_is_refused_before_it_runs(serve, model, make_servable, datatype):
    values = np.zeros((1, 1), np.bool_ if datatype == "BOOL" else np.object_)
    values[0, 0] = b"" if datatype == "BYTES" else False
    entry = tritonclient.grpc.aio.InferInput("x", [1, 1], datatype)
    entry.set_data_from_numpy(values)
    wanted = tritonclient.grpc.aio.InferRequestedOutput("x", class_count=1)
    async with (
        serve(make_servable(model.execute, [TensorSpec("x", datatype, (-1, 1))])) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        with pytest.raises(InferenceServerException, match=f"output 'x' is {datatype}, which has no order"):
            await client.infer("echo", [entry], outputs=[wanted])
    assert model.batches == []


@pytest.mark.parametrize("count", [-1, 1025, 2**62])
async def test_a_number_of_classes_out_of_bounds_is_refused(serve, model, make_servable, fp32_spec, count):
    entry = tritonclient.grpc.aio.InferInput("fp32", [1, 3], "FP32")
    entry.set_data_from_numpy(np.zeros((1, 3), np.float32))
    wanted = tritonclient.grpc.aio.InferRequestedOutput("fp32", class_count=count)
    async with (
        serve(make_servable(model.execute, [fp32_spec])) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        with pytest.raises(InferenceServerException, match=r"classification of 'fp32' must be 1\.\.1024"):
            await client.infer("echo", [entry], outputs=[wanted])


async def test_a_class_that_has_a_label_comes_with_it(serve, model, make_servable):
    specs = [TensorSpec("x", "FP32", (-1, 4), ("cat", "", "dög"))]
    entry = tritonclient.grpc.aio.InferInput("x", [1, 4], "FP32")
    entry.set_data_from_numpy(np.array([[1.0, 2.0, 3.0, 4.0]], np.float32))
    wanted = tritonclient.grpc.aio.InferRequestedOutput("x", class_count=4)
    async with (
        serve(make_servable(model.execute, specs)) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        reply = await client.infer("echo", [entry], outputs=[wanted])
    expected = ["4.000000:3", "3.000000:2:dög", "2.000000:1", "1.000000:0:cat"]
    assert [value.decode() for value in reply.as_numpy("x")[0]] == expected
