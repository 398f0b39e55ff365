"""What is found in a torch model, and what its hooks see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn

from sidecar.runtime.modules import first_tensor, install, tap_points
from tests.runtime.factories import Backboned, Block, Nested, Residual1d, Stages, Transformer


def defaults(model):
    return {point.name: (point.site, point.block) for point in tap_points(model) if point.default}


@pytest.mark.parametrize(
    ("model", "blocks"),
    [
        (Transformer(), ["blocks.0", "blocks.1", "blocks.2"]),
        (nn.Sequential(Block(), Block()), ["0", "1"]),
        (
            nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2),
            ["layers.0", "layers.1"],
        ),
        (nn.Sequential(Residual1d(4), Residual1d(4)), ["0", "1"]),
        (Backboned(), ["blocks.0", "blocks.1"]),
    ],
    ids=["transformer", "sequential", "torch's own", "one run of convolutions", "after a small backbone"],
)
def test_residual_blocks_are_the_largest_run_of_like_blocks(model, blocks):
    assert defaults(model) == {name: ("resid", number) for number, name in enumerate(blocks)}


@pytest.mark.parametrize(
    ("model", "outputs"),
    [
        (Stages(), ["layer1.1", "layer2.2"]),
        (Nested(), ["stages.0", "stages.1", "stages.2"]),
    ],
    ids=["resnet", "stages of lists"],
)
def test_of_a_convolutional_network_the_end_of_each_stage_is_tapped(model, outputs):
    assert defaults(model) == {name: ("stage", number) for number, name in enumerate(outputs)}


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)),
        nn.Sequential(Block(), nn.Sequential(nn.Linear(4, 4))),
        nn.ModuleList([Block()]),
        nn.Linear(2, 2),
    ],
    ids=["plain mlp", "unlike blocks", "one block", "leaf"],
)
def test_a_model_without_blocks_and_stages_has_no_default(model):
    assert defaults(model) == {}


def point(model, name):
    return next(point for point in tap_points(model) if point.name == name)


def test_all_modules_but_lists_are_points_in_the_models_order():
    names = [point.name for point in tap_points(Transformer(1))]
    inside = ["blocks.0", "blocks.0.attn", "blocks.0.mlp", "blocks.0.mlp.0", "blocks.0.mlp.1"]
    assert names == ["embed", *inside, "norm", "head"]


@pytest.mark.parametrize(
    ("name", "site", "block"),
    [
        ("embed", "embed", None),
        ("blocks.1", "resid", 1),
        ("blocks.1.attn", "attn_out", 1),
        ("blocks.1.mlp", "mlp_out", 1),
        ("blocks.1.mlp.0", "blocks.1.mlp.0", 1),
        ("head", "logits", None),
    ],
)
def test_sites_and_blocks_of_a_transformer(name, site, block):
    found = point(Transformer(2), name)
    assert (found.site, found.block) == (site, block)


def test_a_block_of_a_stage_lies_in_it():
    assert point(Stages(), "layer2.0.conv").block == point(Stages(), "layer2").block == 1


class ImageNorm(nn.LayerNorm):
    """Normalises dimension 1, as ConvNeXt does."""


@pytest.mark.parametrize(
    ("module", "dimension"),
    [
        (nn.Conv1d(2, 2, 1), 1),
        (nn.ConvTranspose2d(2, 2, 1), 1),
        (nn.BatchNorm1d(2), 1),
        (nn.GroupNorm(1, 2), 1),
        (nn.MaxPool1d(2), 1),
        (nn.Linear(2, 2), -1),
        (nn.LayerNorm(2), -1),
        (nn.GRU(2, 2), -1),
        (Residual1d(2), 1),
        (Block(), -1),
        (ImageNorm(2), None),
        (nn.ReLU(), None),
        (nn.Sequential(nn.Conv2d(2, 2, 1), nn.Linear(2, 2)), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_the_channel_dimension_is_what_the_modules_say(module, dimension):
    assert point(nn.Sequential(module), "0").channel_dim == dimension


def test_a_module_that_says_nothing_is_like_those_around_it():
    assert point(nn.Sequential(Residual1d(2), nn.Linear(2, 2)), "0.relu").channel_dim == 1


def watch(model, names):
    """What is seen at `names`."""
    seen = []
    install(model, dict.fromkeys(names, seen.append))
    return seen


def test_a_hook_gets_the_activation_at_its_point():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    seen = watch(model, ["0"])
    x = torch.randn(4, 3)
    model(x)
    assert torch.equal(seen[0], model[0](x))


def test_a_module_without_tensor_calls_no_hook():
    class Nothing(nn.Module):
        def forward(self, x):
            return None

    model = nn.Sequential(Nothing())
    seen = watch(model, ["0"])
    model(torch.zeros(1))
    assert seen == []


class Pair(NamedTuple):
    hidden: torch.Tensor
    cache: int


@dataclass
class Output:
    label: str
    hidden: torch.Tensor


X = torch.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    "output",
    [X, (X, 1), [None, X], {"a": "text", "b": X}, Pair(X, 1), Output("x", X), ((None, {"deep": [X]}),)],
    ids=["tensor", "tuple", "list", "mapping", "named tuple", "dataclass", "nested"],
)
def test_the_first_tensor_of_an_output_is_the_activation(output):
    assert first_tensor(output) is X


@pytest.mark.parametrize("output", [None, "text", 3, (), {"a": None}])
def test_an_output_without_tensor_has_no_activation(output):
    assert first_tensor(output) is None
