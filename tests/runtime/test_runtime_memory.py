"""What back ends raise when they find no memory, asked for more than any machine has."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sidecar.errors import ModelError
from sidecar.runtime.memory import found_no_memory, gpu_memory, must_fit
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


def test_a_machine_whose_gpu_nobody_used_has_no_gpu_memory_to_tell():
    assert gpu_memory() == {}


def test_of_a_gpu_that_holds_memory_all_three_sizes_are_told_and_of_an_idle_one_none(monkeypatch):
    held = {0: 0, 1: 3 * 2**20}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_reserved", held.get)
    monkeypatch.setattr(torch.cuda, "memory_allocated", {1: 2**20}.get)
    properties = {1: SimpleNamespace(total_memory=2**36)}
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.get)
    assert gpu_memory() == {(1, "allocated"): 2**20, (1, "reserved"): 3 * 2**20, (1, "total"): 2**36}
