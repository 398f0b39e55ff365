"""Needs a CUDA device, and no more than torch, triton, numpy, grpcio, prometheus-client and pydantic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from sidecar.capture import Guard, Recorder
from sidecar.capture.observe import observe
from sidecar.capture.sampling import Sample
from sidecar.capture.state import TapState
from sidecar.sketch import RequestRows, TapSketch
from sidecar.types import InferRequest, Tap

NEAR_ZERO = 2.0**-10
SLOTS = 320


def pytest_collection_modifyitems(items):
    absent = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(absent)


@pytest.fixture
def cuda():
    return torch.device("cuda", torch.cuda.current_device())


@dataclass
class Fold:
    """One tap's state on the device."""

    channels: int
    pivot: float = 0.0
    state: TapState = field(init=False)
    bank: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.state = TapState(self.channels, 16, torch.device("cuda"))
        self.bank = torch.zeros(1, dtype=torch.int32, device="cuda")
        self.state.clear(0, 16, self.pivot)

    def __call__(self, x: torch.Tensor, slots: Sequence[int], channel_dim: int = -1) -> Fold:
        row_slot = torch.tensor(slots, dtype=torch.int32, device="cuda")
        held = self.state.held
        observe(x, channel_dim, row_slot, 1, self.bank, *held, 16, NEAR_ZERO)
        return self

    def read(self, used: int) -> tuple[TapSketch, RequestRows]:
        host = torch.cat(self.state.pack(0)).cpu()
        return self.state.decode(self.state.unpack(host), used)


@pytest.fixture
def fold():
    return Fold


class Tapped(nn.Module):
    """The op behind something exact in every mode, its state among the module's buffers."""

    def __init__(self, recorder: Recorder, channels: int) -> None:
        super().__init__()
        self.state = TapState(channels, SLOTS, recorder.bank.device)
        recorder.states[Tap(0, "resid", "first", channels)] = self.state
        self.register_buffer("row_slot", recorder.row_slot, persistent=False)
        self.register_buffer("bank", recorder.bank, persistent=False)
        self.register_buffer("weight", torch.ones(channels, device=recorder.bank.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = x * 2
        held = self.state.held
        observe(hidden, -1, self.row_slot, 1, self.bank, *held, SLOTS, NEAR_ZERO)
        return hidden * self.weight


@pytest.fixture
def recorder(cuda):
    return Recorder(
        lambda _: Sample(1.0, True), Guard(), slots=SLOTS, max_rows=4, device=cuda, clock=lambda: 0.0
    )


@pytest.fixture
def requests():
    return [InferRequest(str(number), {}, rows=1) for number in range(4)]


@pytest.fixture
def tapped(recorder):
    return lambda channels: Tapped(recorder, channels)


def captured(model: nn.Module, x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """A CUDA graph of the model, replayed on what it is called with."""
    held = x.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        model(held)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = model(held)

    def replay(values: torch.Tensor) -> torch.Tensor:
        held.copy_(values)
        graph.replay()
        return output

    return replay


MODES = {
    "eager": lambda model, _: model,
    "compiled": lambda model, _: torch.compile(model, fullgraph=True),
    "reduce-overhead": lambda model, _: torch.compile(model, fullgraph=True, mode="reduce-overhead"),
    "graph": captured,
}


@pytest.fixture(params=MODES)
def mode(request):
    return MODES[request.param]


@pytest.fixture
def capture():
    return captured


@pytest.fixture(scope="session")
def definition():
    return lambda x, requests: TapSketch.from_array(
        x.cpu().numpy() if x.dtype == torch.float16 else x.float().cpu().numpy(), NEAR_ZERO, requests
    )


@pytest.fixture(scope="session")
def special():
    return np.array([0, -0.0, np.nan, np.inf, -np.inf, 1e-40, 3e-6, -6, 2.0**-10, 7e4, -3e38, 1e30])
