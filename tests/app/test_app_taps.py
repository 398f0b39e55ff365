"""Runtime and capture joined: what a tapped model answers, and what its taps see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sidecar import runtime
from sidecar.errors import ModelError
from sidecar.observation import observe
from sidecar.types import InferRequest, Tensor


class Served:
    """A model under the torch runtime, observed."""

    def __init__(self, configured):
        (settings,) = configured.models
        self.model = runtime.load(settings)
        self.observation = observe(self.model, settings, configured, lambda _: None, lambda: 0.0)
        self.taps = self.observation.taps

    def __call__(self, x):
        recorder = self.observation.recorder
        batch = {"pixels": Tensor("FP32", x.numpy().copy())}
        assert recorder.open([InferRequest(str(i), batch, 1) for i in range(len(x))], always=True)
        answer = self.model.instrumented(batch)
        recorder.close()
        self.reading = recorder.drain(0.0)
        assert answer["logits"].array.tobytes() == self.model.plain(batch)["logits"].array.tobytes()
        (sketch, *_), (rows, *_) = self.reading.sketches.values(), self.reading.rows.values()
        return sketch, rows


@pytest.fixture
def served(configure, monkeypatch):
    """`served(model, ["glob"], input shape, output shape)`."""

    def served(model, taps, takes, gives):
        monkeypatch.setattr("tests.app.factories.given", lambda: model, raising=False)
        return Served(
            configure(
                {
                    "source": "tests.app.factories:given",
                    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, *takes]}],
                    "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, *gives]}],
                    "taps": taps,
                }
            )
        )

    return served


def test_taps_everywhere_do_not_change_what_a_model_answers(served):
    model = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 2))
    watched = served(model, ["*"], [3], [2])
    watched(torch.randn(5, 3))
    assert [tap.module for tap in watched.taps] == ["0", "1", "2"]


def test_an_in_place_operation_after_a_tap_does_not_reach_what_it_saw(served):
    sketch, _ = served(nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)), ["0"], [3], [3])(
        torch.tensor([[-4.0, 1.0, 2.0]])
    )
    assert sketch.moments.minimum == -4


def test_a_module_that_runs_twice_is_seen_twice(served):
    shared = nn.Linear(3, 3)
    sketch, _ = served(nn.Sequential(shared, nn.Tanh(), shared), ["0"], [3], [3])(torch.randn(2, 3))
    assert (sketch.counts.positions, sketch.counts.requests) == (4, 2)


def test_a_convolution_over_a_sequence_has_its_channels_in_dimension_1(served):
    watched = served(nn.Sequential(nn.Conv1d(2, 5, 1), nn.ReLU()), ["*"], [2, 9], [5, 9])
    sketch, _ = watched(torch.randn(4, 2, 9))
    assert [tap.channels for tap in watched.taps] == [5, 5]
    assert sketch.counts.positions == 4 * 9


class TokensFirst(nn.Module):
    """Flattens tokens into dimension 0, as mixture-of-experts layers do."""

    def __init__(self):
        super().__init__()
        self.expert = nn.Identity()

    def forward(self, x):
        return self.expert(x.flatten(0, 1)).view(x.shape)


def test_tokens_flattened_into_dimension_0_still_belong_to_their_requests(served):
    x = torch.arange(1.0, 4.0)[:, None, None].expand(3, 7, 3)
    _, rows = served(TokensFirst(), ["expert"], [7, 3], [7, 3])(x)
    assert np.array_equal(rows.mean, [1, 2, 3])


class MixesRequests(nn.Module):
    """Puts the batch last, and back."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x):
        return self.inner(x.T).T


def test_a_tap_whose_rows_belong_to_no_request_is_refused(served):
    with pytest.raises(ModelError, match=r"dimension 0 of 1\.inner"):
        served(nn.Sequential(nn.Identity(), MixesRequests()), ["*"], [3], [3])
