"""Where a model is watched, and what a tap may not do to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sidecar import capture
from sidecar.capture.instrument import rows_per_slot
from sidecar.capture.taps import channel_count, first_tensor, residual_blocks
from sidecar.errors import ConfigError, ModelError
from sidecar.types import InferRequest


class Block(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.attn = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU())

    def forward(self, x):
        return x + self.mlp(self.attn(x))


class Transformer(nn.Module):
    def __init__(self, blocks=3):
        super().__init__()
        self.embed = nn.Linear(2, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def basic(width):
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())


class Stages(nn.Module):
    """Two stages of convolutions, the second with more weights."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(basic(3), basic(3))
        self.widen = nn.Conv2d(3, 6, 1)
        self.layer2 = nn.Sequential(basic(6), basic(6), basic(6))

    def forward(self, x):
        return self.layer2(self.widen(self.layer1(x)))


@pytest.mark.parametrize(
    ("model", "blocks"),
    [
        (Transformer(), ["blocks.0", "blocks.1", "blocks.2"]),
        (nn.Sequential(Block(), Block()), ["0", "1"]),
        (Stages(), ["layer2.0", "layer2.1", "layer2.2"]),
        (
            nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2),
            ["layers.0", "layers.1"],
        ),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), []),
        (nn.Sequential(Block(), nn.Sequential(nn.Linear(4, 4))), []),
        (nn.ModuleList([Block()]), []),
        (nn.Linear(2, 2), []),
    ],
    ids=[
        "transformer",
        "sequential",
        "stages",
        "torch's own",
        "plain mlp",
        "unlike blocks",
        "one block",
        "leaf",
    ],
)
def test_residual_blocks_are_the_largest_run_of_like_blocks(model, blocks):
    assert residual_blocks(model) == blocks


def test_without_globs_the_residual_blocks_are_chosen():
    assert capture.choose(Transformer(2), []) == ["blocks.0", "blocks.1"]


def test_without_globs_and_blocks_the_message_says_how_to_go_on():
    with pytest.raises(ModelError, match=r"no residual blocks were found: name the modules in `taps`"):
        capture.choose(nn.Linear(2, 2), [])


def test_globs_choose_in_the_models_order():
    chosen = capture.choose(Transformer(2), ["head", "blocks.?.attn"])
    assert chosen == ["blocks.0.attn", "blocks.1.attn", "head"]


def test_globs_that_match_nothing_are_named():
    with pytest.raises(ConfigError, match=r"taps \['encoder\.\*', 'x'\] match no module; `sidecar taps`"):
        capture.choose(Transformer(), ["head", "encoder.*", "x"])


def described(model, globs, example):
    names = capture.choose(model, globs)
    return capture.describe(model, names, capture.trial_shapes(model, names, lambda: model(example)))


def test_layers_and_sites_of_a_transformer():
    taps = described(Transformer(2), ["*"], torch.zeros(2, 7, 2))
    found = {(tap.layer, tap.site): (tap.module, tap.channels) for tap in taps}
    assert found[0, "embed"] == ("embed", 4)
    assert found[0, "resid"] == ("blocks.0", 4)
    assert found[1, "attn_out"] == ("blocks.1.attn", 4)
    assert found[1, "mlp_out"] == ("blocks.1.mlp", 4)
    assert found[1, "blocks.1.mlp.0"] == ("blocks.1.mlp.0", 4)
    assert found[2, "norm"] == ("norm", 4)
    assert found[3, "logits"] == ("head", 5)
    assert [tap.layer for tap in taps] == sorted(tap.layer for tap in taps)


def test_convolutions_have_their_channels_in_dimension_1():
    taps = described(Stages(), ["layer2.*", "widen"], torch.zeros(2, 3, 5, 5))
    assert {tap.channels for tap in taps} == {6}


@pytest.mark.parametrize(("shape", "channels"), [((8,), 1), ((8, 3), 3), ((8, 2, 3), 3), ((8, 2, 3, 4), 2)])
def test_channel_counts(shape, channels):
    assert channel_count(shape) == channels


class Named(nn.Module):
    """Runs its children one after another."""

    def forward(self, x):
        for child in self.children():
            x = child(x)
        return x


@st.composite
def trees(draw, depth=2):
    if depth == 0 or draw(st.booleans()):
        return nn.Identity()
    tree = Named()
    for name in draw(
        st.lists(st.sampled_from(["attn", "self_attn", "mlp", "fc", "head", "resid"]), unique=True)
    ):
        tree.add_module(name, draw(trees(depth=depth - 1)))
    if draw(st.booleans()):
        tree.add_module("blocks", nn.Sequential(*(Block() for _ in range(draw(st.integers(2, 3))))))
    return tree


@given(trees())
def test_no_two_taps_share_layer_and_site(tree):
    if any(True for _ in tree.children()):
        taps = described(tree, ["*"], torch.zeros(2, 4))
        assert len({tap.key for tap in taps}) == len(taps)
        assert all(tap.layer >= 0 for tap in taps)


def test_a_module_that_does_not_run_is_named():
    model = Transformer()
    model.spare = nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"modules \['spare'\] gave no activation in a trial run"):
        described(model, ["spare", "head"], torch.zeros(2, 7, 2))


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_trial_runs_leave_no_hook_behind():
    model = Transformer()
    capture.trial_shapes(model, ["head", "blocks.0"], lambda: model(torch.zeros(2, 7, 2)))
    assert hooks(model) == 0


def test_a_trial_run_that_raises_leaves_no_hook_behind():
    model = Transformer()
    with pytest.raises(RuntimeError):
        capture.trial_shapes(model, ["head", "blocks.0"], lambda: model(torch.zeros(2, 7, 99)))
    assert hooks(model) == 0


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


class Watched:
    """A model with taps installed, over plain batches."""

    def __init__(self, model, globs, example, make_recorder, *, batched=True, max_rows=8):
        self.model = model
        names = capture.choose(model, globs)
        small, large = (capture.trial_shapes(model, names, lambda n=n: model(example(n))) for n in (2, 3))
        taps = capture.describe(model, names, small)
        self.recorder = make_recorder(max_rows=max_rows)
        self.recorder.states.clear()
        self.taps = taps
        capture.install(
            model, taps, small, large, self.recorder, slots=16, near_zero=2.0**-10, batched=batched
        )

    def __call__(self, x, sampled=None):
        requests = [
            InferRequest(str(i), {}, 1, {"sidecar_sample": bool(wanted)})
            for i, wanted in enumerate(sampled or [True] * len(x))
        ]
        assert self.recorder.open(requests)
        output = self.model(x)
        self.recorder.close()
        self.reading = self.recorder.drain(0.0)
        return output


@pytest.fixture
def watch(make_recorder):
    return lambda model, globs, example, **options: Watched(model, globs, example, make_recorder, **options)


def test_each_request_gets_the_statistics_of_its_own_rows(watch):
    watched = watch(Transformer(2), ["embed"], lambda n: torch.randn(n, 7, 2))
    x = torch.randn(4, 7, 2)
    own = watched.model.embed(x).detach().double().numpy()
    watched(x, sampled=[True, False, True, True])
    (rows,) = watched.reading.rows.values()
    assert np.allclose(rows.mean, own.mean((1, 2))[[0, 2, 3]], rtol=1e-5, atol=1e-7)
    assert np.array_equal(rows.absmax, np.abs(own).max((1, 2))[[0, 2, 3]])


class TokensFirst(nn.Module):
    """Flattens tokens into dimension 0, as mixture-of-experts layers do."""

    def __init__(self):
        super().__init__()
        self.expert = nn.Identity()

    def forward(self, x):
        return self.expert(x.flatten(0, 1)).view(x.shape)


def test_tokens_flattened_into_dimension_0_still_belong_to_their_requests(watch):
    watched = watch(TokensFirst(), ["expert"], lambda n: torch.zeros(n, 7, 3))
    watched(torch.arange(1.0, 4.0)[:, None, None].expand(3, 7, 3).contiguous())
    (rows,) = watched.reading.rows.values()
    assert rows.mean.tolist() == [1, 2, 3]


@pytest.mark.parametrize("tokens", [3, 20, 50])
def test_rows_that_cannot_be_told_apart_are_a_counted_failure_and_touch_nothing(watch, tokens):
    watched = watch(TokensFirst(), ["expert"], lambda n: torch.zeros(n, 7, 3))
    x = torch.randn(2, tokens, 3)
    assert torch.equal(watched(x), x)
    assert watched.recorder.guard.failures["tap"] == 1
    assert next(iter(watched.reading.sketches.values())).counts.values == 0


def test_an_activation_of_another_width_is_a_counted_failure_and_touches_nothing(watch):
    watched = watch(nn.Sequential(nn.Identity()), ["0"], lambda n: torch.zeros(n, 7, 3))
    watched(torch.randn(2, 7, 9000))
    assert watched.recorder.guard.failures["tap"] == 1
    assert next(iter(watched.reading.sketches.values())).counts.values == 0


@pytest.mark.parametrize(
    ("small", "large"), [((7, 2), (7, 3)), ((5, 5), (5, 5)), ((3, 2), (4, 2)), ((3, 2), (2, 2))],
    ids=["sequence first", "no batch", "one row more", "shrinking"],
)  # fmt: skip
def test_an_activation_whose_dimension_0_is_not_the_batch_is_refused(small, large):
    with pytest.raises(
        ModelError, match=rf"dimension 0 of a is {small[0]} for a batch of 2 and {large[0]} for 3"
    ):
        rows_per_slot("a", {"a": small}, {"a": large}, batched=True)


class MixesRequests(nn.Module):
    """Puts the batch last."""

    def forward(self, x):
        return x.T


def test_a_refused_tap_leaves_no_hook_on_the_others(watch):
    model = nn.Sequential(nn.Identity(), MixesRequests())
    with pytest.raises(ModelError, match="dimension 0 of 1"):
        watch(model, ["0", "1"], lambda n: torch.zeros(n, 3))
    assert hooks(model) == 0


def test_without_a_batch_dimension_all_rows_are_one_request(watch):
    watched = watch(
        nn.Sequential(nn.Identity()), ["0"], lambda n: torch.zeros(9, 3), batched=False, max_rows=0
    )
    watched.recorder.open([InferRequest("a", {}, 1)])
    watched.model(torch.full((40, 3), 2.0))
    watched.recorder.close()
    (rows,) = watched.recorder.drain(0.0).rows.values()
    assert rows.mean.tolist() == [2.0]


def test_an_in_place_operation_after_a_tap_does_not_reach_what_it_saw(watch):
    watched = watch(nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)), ["0"], lambda n: torch.zeros(n, 3))
    watched(torch.tensor([[-4.0, 1.0, 2.0]]))
    (sketch,) = watched.reading.sketches.values()
    assert sketch.moments.minimum == -4


def test_a_module_that_runs_twice_is_seen_twice(watch):
    shared = nn.Linear(3, 3)
    watched = watch(nn.Sequential(shared, nn.Tanh(), shared), ["0"], lambda n: torch.zeros(n, 3))
    watched(torch.randn(2, 3))
    (sketch,) = watched.reading.sketches.values()
    assert (sketch.counts.positions, sketch.counts.requests) == (4, 2)


class Squeeze(nn.Module):
    def forward(self, x):
        return x.sum(1)


def test_one_value_a_request_is_an_activation_of_one_channel(watch):
    watched = watch(nn.Sequential(Squeeze()), ["0"], lambda n: torch.zeros(n, 3))
    watched(torch.ones(5, 3))
    (rows,) = watched.reading.rows.values()
    assert watched.taps[0].channels == 1
    assert rows.mean.tolist() == [3.0] * 5


def test_taps_do_not_change_what_a_model_answers(watch):
    model = Transformer(3).eval()
    x = torch.randn(5, 7, 2)
    with torch.inference_mode():
        expected = model(x)
        watched = watch(model, ["*"], lambda n: torch.randn(n, 7, 2))
        assert torch.equal(watched(x), expected)
