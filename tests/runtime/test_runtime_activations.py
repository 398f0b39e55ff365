"""An input that is run again for one layer: what the layer gives, and that requests do not notice."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from sidecar.errors import ModelError
from sidecar.runtime.torch import TorchRuntime
from sidecar.settings import ModelSettings

WAYS = pytest.mark.parametrize("way", ["eager", "exported", "compiled"])


class Two(nn.Module):
    """Runs its block twice, and changes what the first run gave in place."""

    def __init__(self):
        super().__init__()
        self.block = nn.Linear(3, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.block(self.block(x).relu_()))


@WAYS
def test_a_layers_activations_are_those_that_a_hook_sees_at_each_run(make, random, way):
    x, model = random(2, 3), Two().eval()
    way = make(way, model, [x])
    way.watch(["block"])
    found = way.model.activations("block", way.batch(x))
    first = model.block(x)
    assert torch.allclose(found[0], first)
    assert torch.allclose(found[1], model.block(first.relu()))


@WAYS
def test_requests_do_not_see_that_inputs_are_run_again(make, random, way):
    x, model = random(2, 3), Two().eval()
    way = make(way, model, [x])
    look = way.watch(["block"])
    before = [seen.clone() for _, seen in look(x)]
    for name in ("head", "block"):
        way.model.activations(name, way.batch(random(2, 3)))
    after = [seen for _, seen in look(x)]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


class Scratch(nn.Module):
    """Writes into a buffer on its way."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("scratch", torch.zeros(2, 3))

    def forward(self, x):
        self.scratch.copy_(x)
        return self.layer(self.scratch)


def test_a_buffer_that_the_model_writes_is_not_the_one_that_requests_use(make, random):
    x, model = random(2, 3), Scratch().eval()
    way = make("eager", model, [x])
    way.watch(["layer"])
    way.model.plain(way.batch(x))
    way.model.activations("layer", way.batch(random(2, 3)))
    assert torch.equal(model.scratch, x)


class Sums(nn.Module):
    """Adds up its inputs in a buffer of two names, and in a list."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("total", torch.zeros(3))
        self.register_buffer("same", self.total)
        self.listed = [self.total]

    def forward(self, x):
        self.same.add_(x.sum(0))
        return self.layer(x + self.total)


class MadeSums(Sums):
    """Its buffer was computed from a parameter, so torch refuses to copy it deeply."""

    def __init__(self):
        super().__init__()
        self.total = self.same = self.listed[0] = self.layer.bias * 0


class ListedSums(Sums):
    def forward(self, x):
        self.listed[0].add_(x.sum(0))
        return self.layer(x + self.total)


@pytest.mark.parametrize(
    ("way", "kind"), [("eager", Sums), ("eager", ListedSums), ("eager", MadeSums), ("exported", Sums)]
)
def test_a_buffer_that_has_several_names_is_copied_once_for_all(make, random, way, kind):
    x, other, model = random(2, 3), random(2, 3), kind().eval()
    way = make(way, model, [x])
    served = way.model._model.total
    (seen,) = way.model.activations("layer", way.batch(other))
    assert torch.equal(served, torch.zeros(3))
    with torch.inference_mode():
        assert torch.allclose(seen, model.layer(other + other.sum(0)), atol=1e-6)


@WAYS
def test_one_copy_of_the_model_serves_all_layers(make, random, monkeypatch, way):
    x, model = random(2, 3), Two().eval()
    way, copies = make(way, model, [x]), []
    copied = way.model._copy_apart
    monkeypatch.setattr(way.model, "_copy_apart", lambda: copies.append(0) or copied())
    for name, times in (("block", 2), ("head", 1), ("block", 2)):
        assert len(way.model.activations(name, way.batch(x))) == times
    assert len(copies) == 1


def test_one_thread_runs_it_and_other_threads_keep_their_number(make, random):
    x, used = random(2, 3), []

    class Counted(nn.Linear):
        def forward(self, x):
            used.append(torch.get_num_threads())
            return super().forward(x)

    way = make("eager", nn.Sequential(Counted(3, 3)).eval(), [x])
    before = torch.get_num_threads()
    thread = threading.Thread(target=lambda: way.model.activations("0", way.batch(x)))
    thread.start()
    thread.join()
    assert used == [1]
    assert torch.get_num_threads() == before


def test_on_another_device_than_a_cpu_it_is_refused():
    size = {"datatype": "FP32", "shape": [-1, 3]}
    model = TorchRuntime(
        ModelSettings(
            name="m",
            source="tests.runtime.factories:linear",
            inputs=[{"name": "x", **size}],
            outputs=[{"name": "y", **size}],
            device="meta",
        )
    )
    with pytest.raises(ModelError, match="inputs are run again on a CPU only"):
        model.activations("", {})
