"""Made-up requests."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sidecar.runtime.examples import UNKNOWN_SIZE, example
from sidecar.types import DATATYPES, TensorSpec


@pytest.mark.parametrize("datatype", sorted(set(DATATYPES) - {"BYTES"}))
def test_an_example_has_the_type_and_the_shape_of_its_input(datatype):
    tensor = example([TensorSpec("x", datatype, (-1, -1, 3))], 5, batched=True)["x"]
    assert (tensor.datatype, tensor.array.dtype, tensor.array.shape) == (
        datatype,
        DATATYPES[datatype],
        (5, UNKNOWN_SIZE, 3),
    )


def test_an_input_of_a_fixed_first_dimension_keeps_it():
    assert example([TensorSpec("x", "FP32", (4, 3))], 5, batched=True)["x"].array.shape == (4, 3)


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "BF16"])
def test_floats_are_standard_normal_and_the_same_at_each_call(datatype):
    spec = TensorSpec("x", datatype, (-1, 1000))
    first, second = (example([spec], 10, batched=True)["x"].array for _ in range(2))
    assert first.tobytes() == second.tobytes()
    values = torch.from_numpy(first)
    values = (values.view(torch.bfloat16) if datatype == "BF16" else values).double().numpy()
    assert abs(np.mean(values)) < 0.05
    assert abs(np.std(values) - 1) < 0.05


def test_nothing_is_masked():
    mask = example([TensorSpec("attention_mask", "INT64", (-1, -1))], 2, batched=True)["attention_mask"]
    assert mask.array.all()
