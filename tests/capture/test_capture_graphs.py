"""The op inside captured graphs. That it never makes a host wait for a GPU needs a GPU to be seen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sidecar.capture import layout
from sidecar.capture.observe import observe
from sidecar.capture.state import TapState
from sidecar.sketch import TapSketch

NEAR_ZERO = 2.0**-10


class Tapped(nn.Module):
    """Two layers with the op between them, its state among the module's buffers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 2)
        self.state = TapState(5, 4, torch.device("cpu"))
        self.register_buffer("row_slot", torch.tensor([0, -1, 1], dtype=torch.int32))
        self.register_buffer("bank", torch.zeros(1, dtype=torch.int32))

    def forward(self, x):
        hidden = self.first(x)
        state = self.state
        observe(
            hidden,
            -1,
            self.row_slot,
            1,
            self.bank,
            *state.held,
            4,
            NEAR_ZERO,
        )
        return self.second(hidden)

    def seen(self, bank=0):
        return self.state.read(bank, 2)[0]


@pytest.fixture
def x():
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def expected(x):
    return TapSketch.from_array(Tapped().first(x).detach().numpy()[[0, 2]], NEAR_ZERO, 2)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_with_the_op_is_one_graph_with_equal_outputs_and_counts(x, expected, backend):
    torch._dynamo.reset()
    model, plain = Tapped(), Tapped()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.inference_mode():
        assert torch.equal(compiled(x), plain(x))
    assert model.seen().counts == expected.counts
    assert model.seen() == plain.seen()


def test_a_compiled_model_follows_the_switch_to_the_other_bank(x, expected):
    torch._dynamo.reset()
    model = Tapped()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        compiled(x)
        model.bank.fill_(1)
        compiled(x)
        compiled(x)
    assert model.seen(0).counts.positions == 2
    assert model.seen(1).counts.positions == 4


def test_an_exported_model_still_observes(x, expected):
    model = Tapped()
    exported = torch.export.export(model, (x,), strict=False)
    calls = [node for node in exported.graph.nodes if node.target is torch.ops.sidecar.observe.default]
    assert len(calls) == 1
    loaded = exported.module()
    assert torch.equal(loaded(x), Tapped()(x))
    state = dict(loaded.named_buffers())
    fires = state["state.integers"][0, :5]
    assert fires.tolist() == expected.channels.fires.tolist()


def test_the_op_declares_what_it_mutates_and_runs_without_data():
    written = [argument.name for argument in observe._schema.arguments if argument.is_write]
    assert written == ["histogram", "integers", "floats", "projections", "peaks"]
    state = TapState(5, 4, torch.device("meta"))
    row_slot, bank = (torch.zeros(1, dtype=torch.int32, device="meta") for _ in range(2))
    x = torch.empty(3, 5, device="meta")
    held = state.held
    assert observe(x, -1, row_slot, 1, bank, *held, 4, NEAR_ZERO) is None


def test_state_is_as_large_as_the_layout_says():
    state = TapState(7, 5, torch.device("cpu"))
    assert state.integers.shape == (2, layout.integer_cells(7, 5))
    assert state.floats.shape == (2, layout.float_cells(7, 5))
    assert not state.state_dict()
