"""Compiled graphs: one for every size of a batch, made before the first request, with the observers inside."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch._inductor.exc import InvalidCxxCompiler

from sidecar.errors import ModelError
from sidecar.runtime import compiled
from tests.runtime.factories import Transformer


class Confesses(nn.Module):
    """Counts the runs that were not compiled."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.uncompiled = 0

    def forward(self, x):
        if not torch.compiler.is_compiling():
            self.uncompiled += 1
        return self.layer(x).sum(1)


@pytest.fixture
def confessing(make, random):
    """A compiled model that takes any length too, and the module inside that counts."""
    inner = Confesses().eval()
    free = [{"name": "x0", "datatype": "FP32", "shape": [-1, -1, 3]}]
    return make("compiled", inner, [random(2, 3, 3)], inputs=free, batching={"max_rows": 8}), inner


def test_no_size_of_a_batch_is_left_uncompiled(confessing, random):
    watched, inner = confessing
    for rows in range(1, 9):
        for length in (2, 3, 40):
            watched.model.plain(watched.batch(random(rows, length, 3)))
    assert inner.uncompiled == 0


def test_what_fits_no_graph_is_run_uncompiled_and_compiles_nothing(confessing, random):
    watched, inner = confessing
    x = random(4, 1, 3)
    for _ in range(2):
        answer = watched.model.plain(watched.batch(x))["y0"].array
    assert inner.uncompiled == 2
    assert torch.equal(torch.from_numpy(answer), inner.layer(x).sum(1))


def test_graphs_hold_on_another_thread_whatever_other_models_did_to_theirs(confessing, random):
    watched, inner = confessing
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    with ThreadPoolExecutor(1, initializer=watched.model.prepare_thread) as worker:
        worker.submit(watched.model.plain, watched.batch(random(2, 4, 3))).result()
    watched.model.prepare_thread()
    assert torch.get_num_threads() == before
    assert inner.uncompiled == 0


def test_variants_of_one_model_do_not_run_each_others_graphs(make, random):
    x = random(2, 5, 2)
    model = Transformer().eval()
    watched = make("compiled", model, [x])
    watched.model.plain(watched.batch(x))
    first, second = watched.watch(["blocks.0"]), make("compiled", model, [x]).watch(["blocks.2"])
    assert [name for name, _ in first(x)] == ["blocks.0"]
    assert [name for name, _ in second(x)] == ["blocks.2"]


class Looks(nn.Module):
    """Decides by a value, which no graph can."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


class Fixed(nn.Module):
    """Works for any batch, but asks for its size."""

    def forward(self, x):
        return x * int(x.shape[0] == 4)


@pytest.mark.parametrize(
    ("model", "reason"), [(Looks(), "[Dd]ata-dependent"), (Fixed(), "Not all values of|specialized")]
)
def test_a_model_that_is_not_one_graph_for_all_batches_is_refused(make, random, model, reason):
    with pytest.raises(ModelError, match=rf"(?s)not one graph for all batches: .*({reason})"):
        make("compiled", model, [random(2, 3)])


def test_a_missing_compiler_is_named(monkeypatch):
    def nothing_found():
        raise InvalidCxxCompiler

    monkeypatch.setattr(compiled, "get_cpp_compiler", nothing_found)
    with pytest.raises(
        ModelError, match=r"needs a C\+\+ compiler for device cpu and found none: install g\+\+"
    ):
        compiled.require_compiler(torch.device("cpu"))
    assert compiled.require_compiler(torch.device("cuda")) is None
