"""What an observer sees is what the module returned, however the model runs: hooks, an exported or a compiled graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn

from tests.runtime.factories import Transformer

WAYS = pytest.mark.parametrize("way", ["eager", "exported", "compiled"])


class Pair(NamedTuple):
    nothing: None
    hidden: torch.Tensor


@dataclass
class Output:
    nothing: None
    hidden: torch.Tensor


PACKINGS = {
    "tuple": (lambda x: (x, 1), lambda out: out[0]),
    "tuple with None": (lambda x: (None, x), lambda out: out[1]),
    "list": (lambda x: [x], lambda out: out[0]),
    "dict": (lambda x: {"nothing": None, "hidden": x}, lambda out: out["hidden"]),
    "named tuple": (lambda x: Pair(None, x), lambda out: out.hidden),
    "dataclass": (lambda x: Output(None, x), lambda out: out.hidden),
    "nested": (lambda x: ((None, {"deep": [x]}),), lambda out: out[0][1]["deep"][0]),
}


class Packed(nn.Module):
    """Returns its activation in something."""

    def __init__(self, pack):
        super().__init__()
        self.layer, self.pack = nn.Linear(3, 3), pack

    def forward(self, x):
        return self.pack(self.layer(x) * 2)


class Unpacked(nn.Module):
    def __init__(self, pack, unpack):
        super().__init__()
        self.packed, self.unpack = Packed(pack), unpack

    def forward(self, x):
        return self.unpack(self.packed(x)) + 1


@WAYS
@pytest.mark.parametrize("packing", PACKINGS)
def test_the_activation_is_found_in_what_a_module_returns(make, random, way, packing):
    model, x = Unpacked(*PACKINGS[packing]).eval(), random(2, 3)
    ((name, seen),) = make(way, model, [x]).seen(["packed"], x)
    assert (name, torch.equal(seen, model.packed.layer(x) * 2)) == ("packed", True)


@WAYS
def test_an_operation_in_place_after_a_tap_does_not_reach_what_was_seen(make, random, way):
    x = random(2, 3)
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 3)).eval()
    seen = dict(make(way, model, [x]).seen(["0", "1"], x))
    assert torch.equal(seen["0"], model[0](x))
    assert torch.equal(seen["1"], model[0](x).relu())
    assert (seen["0"] < 0).any()


class InPlaceInside(nn.Module):
    """Changes its own activation in place, through another view of it, before it returns it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        x = self.layer(x)
        same = x.view(x.shape)
        x.relu_()
        return same


@WAYS
def test_an_operation_in_place_inside_a_module_is_seen(make, random, way):
    x = random(4, 3)
    model = nn.Sequential(InPlaceInside(), nn.Linear(3, 3)).eval()
    seen = dict(make(way, model, [x]).seen(["0", "0.layer"], x))
    assert (seen["0"] >= 0).all()
    assert (seen["0.layer"] < 0).any()


class Twice(nn.Module):
    """Calls a block of two layers twice."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def forward(self, x):
        return self.block(self.block(x).tanh())


@WAYS
def test_a_module_that_runs_twice_is_seen_twice_in_order(make, random, way):
    x, model = random(2, 3), Twice().eval()
    seen = make(way, model, [x]).seen(["block", "block.0"], x)
    assert [name for name, _ in seen] == ["block.0", "block"] * 2
    assert torch.equal(seen[1][1], model.block(x))
    assert torch.equal(seen[3][1], model.block(model.block(x).tanh()))


class Spare(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.spare = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(x)


@WAYS
def test_a_module_that_is_not_called_gives_no_activation(make, random, way):
    x = random(2, 3)
    model = make(way, Spare().eval(), [x]).model
    names = [point.name for point in model.tap_points()]
    assert names == (["layer"] if way == "exported" else ["layer", "spare"])
    assert list(model.activation_shapes(names, model.example(2))) == ["layer"]


class Casts(nn.Module):
    """bfloat16 inside, class numbers last."""

    def __init__(self):
        super().__init__()
        self.narrow = nn.Linear(3, 3).bfloat16()
        self.numbers = Numbers()

    def forward(self, x):
        y = self.narrow(x.bfloat16())
        return y.float() + self.numbers(y).unsqueeze(-1)


class Numbers(nn.Module):
    def forward(self, x):
        return x.argmax(-1)


@WAYS
def test_an_activation_is_seen_in_its_own_type_and_integers_are_none(make, random, way):
    x = random(2, 3)
    watched = make(way, Casts().eval(), [x])
    shapes = watched.model.activation_shapes(["narrow", "numbers"], watched.model.example(2))
    assert shapes == {"narrow": (2, 3)}
    assert watched.model.activation_formats(["narrow", "numbers"]) == {"narrow": "bfloat16"}
    ((_, seen),) = watched.seen(["narrow"], x)
    assert seen.dtype == torch.bfloat16


class Elsewhere(nn.Module):
    """One of its activations lies on a device without values."""

    def __init__(self):
        super().__init__()
        self.away = Away()

    def forward(self, x):
        return x + self.away(x).shape[-1]


class Away(nn.Module):
    def forward(self, x):
        return x.to("meta") * 2


@WAYS
def test_an_activation_on_another_device_is_none(make, random, way):
    x = random(2, 3)
    model = make(way, Elsewhere().eval(), [x]).model
    assert model.activation_shapes(["away"], model.example(2)) == {}


@WAYS
def test_any_size_of_a_batch_is_seen_whole(make, random, way):
    model = Transformer().eval()
    look = make(way, model, [random(3, 5, 2)], batching={"max_rows": 8}).watch(["blocks.0", "blocks.2"])
    for rows in range(1, 9):
        x = random(rows, 5, 2)
        (_, first), (_, last) = look(x)
        assert torch.equal(first, model.blocks[0](model.embed(x)))
        assert last.shape == (rows, 5, 4)


@WAYS
def test_shapes_of_a_trial_run_come_in_its_order(make, random, way):
    model = make(way, Transformer(1).eval(), [random(2, 7, 2)]).model
    shapes = model.activation_shapes(["head", "blocks.0"], model.example(2))
    assert list(shapes.items()) == [("blocks.0", (2, 7, 4)), ("head", (2, 5))]


@WAYS
def test_trial_runs_and_observers_leave_the_plain_variant_as_it_was(make, random, way):
    x = random(2, 3)
    watched = make(way, nn.Sequential(nn.Linear(3, 3), nn.ReLU()), [x])
    watched.model.activation_shapes(["0"], watched.model.example(2))
    assert len(watched.seen(["0"], x)) == 1
    assert watched.seen([], x) == []
