"""What back ends raise when they find no memory, asked for more than any machine has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sidecar.errors import ModelError
from sidecar.runtime.memory import found_no_memory, must_fit
from sidecar.runtime.onnx_session import Engine
from sidecar.types import Tensor
from tests.runtime.graphs import model, node


def ask_torch():
    torch.empty(2**55, dtype=torch.uint8)


def ask_onnx_runtime():
    engine = Engine("cpu", 1)
    large = model([node("Expand", "x size", "y")], {"size": np.array([2**22, 2**22, 1])})
    session = engine.session(large, {}, engine.options())
    session.run({"x": Tensor("FP32", np.ones((1, 4), np.float32))}, ["y"])


@pytest.mark.parametrize("ask", [ask_torch, ask_onnx_runtime])
def test_a_back_end_without_memory_is_told_from_one_that_fails(ask):
    with pytest.raises(RuntimeError) as raised:
        ask()
    assert found_no_memory(raised.value)


@pytest.mark.parametrize("error", [None, RuntimeError("shapes do not fit"), ValueError("std::bad_alloc")])
def test_other_errors_are_not_taken_for_a_lack_of_memory(error):
    assert not found_no_memory(error)


def test_only_a_lack_of_memory_becomes_a_model_that_does_not_fit():
    with (
        pytest.raises(ModelError, match=r"model m does not fit into memory: .*can't allocate"),
        must_fit("model m"),
    ):
        ask_torch()
    with pytest.raises(RuntimeError, match=r"^shapes$"), must_fit("model m"):
        raise RuntimeError("shapes")
