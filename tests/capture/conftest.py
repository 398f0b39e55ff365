"""Activations of every kind, and the kernels that fold them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from sidecar.capture import Governor, Guard, Outputs, Recorder, Reservoir, Spending
from sidecar.capture.observe import OpState, as_rows, bind, observe
from sidecar.capture.state import TapState
from sidecar.settings import CaptureSettings
from sidecar.sketch import RequestRows, TapSketch
from sidecar.types import InferRequest, Tap

NEAR_ZERO = 2.0**-10

# triton is there for Linux only.
collect_ignore_glob = [] if find_spec("triton") else ["test_capture_cuda_*"]


def bound(x, channel_dim, *state):
    """What an eager hook on a CPU calls, past the dispatcher."""
    bind(torch.device("cpu"), channel_dim, OpState(*state))(x)


KERNELS = {"op": observe, "bound": bound}


@dataclass
class Fold:
    """One tap's state and the kernel that writes it.

    slots: of the batch rows, -1 for one that is not observed.
    """

    kernel: Callable[..., None]
    channels: int
    pivot: float = 0.0
    capacity: int = 16

    def __post_init__(self) -> None:
        self.state = TapState(self.channels, self.capacity, torch.device("cpu"))
        self.bank = torch.zeros(1, dtype=torch.int32)
        self.state.clear(0, self.capacity, self.pivot)

    def __call__(
        self, x: torch.Tensor, slots: Sequence[int], channel_dim: int = -1, per_slot: int = 1
    ) -> Fold:
        row_slot = torch.tensor(slots, dtype=torch.int32)
        held = self.state.held
        self.kernel(x, channel_dim, row_slot, per_slot, self.bank, *held, self.capacity, NEAR_ZERO)
        return self

    def read(self, used: int) -> tuple[TapSketch, RequestRows]:
        return self.state.read(0, used)


def plain(x: torch.Tensor, channel_dim: int = -1) -> np.ndarray:
    """The same values as [rows, positions, C] in the precision in which they are observed."""
    x = as_rows(x, channel_dim)
    return (x if x.dtype == torch.float16 else x.float()).numpy()


@pytest.fixture(params=KERNELS)
def kernel(request):
    return KERNELS[request.param]


@pytest.fixture(scope="session")
def fold():
    return Fold


@pytest.fixture(scope="session")
def as_plain():
    return plain


def ungoverned(**settings) -> Governor:
    """Without a limit, so that only the hash and the clients choose."""
    return Governor(CaptureSettings(budget=1.0, **settings), lambda: Spending(0.0, 0.0, 0.0), lambda: 5.0)


@pytest.fixture(scope="session", name="ungoverned")
def ungoverned_fixture():
    return ungoverned


TAP = Tap(0, "resid", "blocks.0", 3)


@pytest.fixture(scope="session")
def make_recorder():
    """A recorder of one tap, `clock` stands at 5 s."""

    def make(
        guard: Guard | None = None,
        slots: int = 16,
        max_rows: int = 8,
        outputs: Outputs | None = None,
        inputs: Reservoir | None = None,
        parameters: tuple[str, ...] = (),
        **settings,
    ) -> Recorder:
        cpu = torch.device("cpu")
        choose = ungoverned(**{"sample_rate": 1.0, **settings}).sample
        recorder = Recorder(
            choose,
            guard or Guard(),
            slots=slots,
            max_rows=max_rows,
            device=cpu,
            clock=lambda: 5.0,
            outputs=outputs,
            inputs=inputs,
            parameters=parameters,
        )
        recorder.states[TAP] = TapState(TAP.channels, slots, cpu)
        return recorder

    return make


@pytest.fixture(scope="session")
def tap():
    return TAP


@pytest.fixture(scope="session")
def run_batch(tap):
    """Run the taps of an opened batch: row r of request i holds the value i + 1."""

    def run(recorder: Recorder, requests: Sequence[InferRequest]) -> None:
        values = [float(request.id) for request in requests for _ in range(request.rows)]
        x = torch.tensor(values)[:, None].expand(-1, tap.channels)
        state = recorder.states[tap]
        held = state.held
        observe(x, -1, recorder.row_slot, 1, recorder.bank, *held, state.slots, NEAR_ZERO)

    return run


@pytest.fixture(scope="session")
def make_request():
    return lambda id, rows=1, **parameters: InferRequest(str(id), {}, rows, parameters)
