"""The banks of a GPU, with streams and events that tell what was asked of them."""

from __future__ import annotations

import contextlib
import threading

import pytest
import torch

from sidecar.capture.banks import _STAGES, Banks, CudaBanks
from sidecar.capture.state import TapState
from sidecar.settings import CaptureSettings
from sidecar.types import Tap

CPU = torch.device("cpu")
ROWS = 3


class FakeCuda:
    """Streams that keep the order of calls; `ready` says what events answer."""

    def __init__(self):
        self.ready = True
        self.queries = 0
        self.calls = []
        self.model = self.Stream("model")

    def Stream(self, name):  # noqa: N802 - as torch.cuda has it
        return FakeStream(self, "side" if name == CPU else name)

    def Event(self):  # noqa: N802 - as torch.cuda has it
        return FakeEvent(self)

    def current_stream(self, _device):
        return self.model

    @contextlib.contextmanager
    def stream(self, stream):
        self.calls.append(f"on {stream.name}")
        yield


class FakeStream:
    def __init__(self, cuda, name):
        self.cuda, self.name = cuda, name

    def wait_event(self, event):
        self.cuda.calls.append((self.name, "waits for", event))


class FakeEvent:
    def __init__(self, cuda):
        self.cuda = cuda

    def record(self, stream):
        self.cuda.calls.append((stream.name, "records", self))

    def query(self):
        self.cuda.queries += 1
        return self.cuda.ready


@pytest.fixture
def cuda():
    return FakeCuda()


@pytest.fixture
def waited():
    return []


@pytest.fixture
def banks(cuda, waited):
    def wait(seconds):
        waited.append(seconds)
        cuda.ready = len(waited) >= 3

    return CudaBanks(ROWS, CPU, cuda, wait)


@pytest.fixture
def states():
    states = {
        Tap(layer, "resid", f"blocks.{layer}", 3 + layer): TapState(3 + layer, 4, CPU) for layer in (0, 1)
    }
    for number, buffer in enumerate(buffer for state in states.values() for buffer in state.buffers()):
        buffer.copy_(torch.arange(buffer.numel()).reshape(buffer.shape) + number)
    return states


@pytest.mark.parametrize("bank", [0, 1])
def test_a_fetch_brings_what_lies_in_the_bank_of_every_tap(banks, states, bank):
    for found, expected in zip(banks.fetch(states, bank), Banks(ROWS, CPU).fetch(states, bank), strict=True):
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == theirs.dtype
            assert ours.tolist() == theirs.tolist()


def test_a_fetch_asks_again_until_its_copy_has_come(banks, states, cuda, waited):
    cuda.ready = False
    banks.fetch(states, 0)
    assert (len(waited), cuda.queries) == (3, 4)


def test_nothing_is_asked_of_the_device_while_a_graph_is_captured(banks, states, cuda):
    brought = []
    thread = threading.Thread(target=lambda: brought.append(banks.fetch(states, 0)))
    with banks.quiet:
        thread.start()
        assert not banks.send()
        assert not cuda.calls
        assert not cuda.queries
    thread.join(60)
    assert len(brought) == 1


def test_a_batch_gets_its_slots_after_the_switch_and_a_switch_comes_after_the_last_batch(banks, cuda):
    banks.staged[:] = [4, -1, 5]
    banks.send()
    banks.written()
    banks.switch(1)
    (model, waits, switched), (_, _, sent), (_, records, written), side, *rest = cuda.calls
    assert (model, waits, records, side) == ("model", "waits for", "records", "on side")
    assert sent is not written
    assert rest == [("side", "waits for", written), ("side", "records", switched)]
    assert banks.row_slot.tolist() == [4, -1, 5]
    assert banks.bank.item() == 1


def test_a_host_that_runs_too_far_ahead_of_the_device_is_told_so(banks, cuda):
    banks.staged[:] = 0
    assert all(banks.send() for _ in range(_STAGES))
    cuda.ready = False
    banks.staged[:] = 1
    assert not banks.send()
    assert banks.row_slot.tolist() == [0, 0, 0]


def test_slots_on_their_way_are_not_overwritten_by_the_next_batch(banks):
    for number in range(_STAGES):
        banks.staged[:] = number
        banks.send()
    assert banks._stages[:, 0].tolist() == list(range(_STAGES))


def test_clearing_waits_in_line_behind_the_copy(banks, states, cuda):
    banks.fetch(states, 0)
    copied = len(cuda.calls)
    banks.clear(states, 0, used=4, pivots=[0.0, 0.0])
    assert cuda.calls[copied:] == ["on side"]
    assert not any(state.histogram[0].any() for state in states.values())
    assert all(state.histogram[1].any() for state in states.values())


def test_the_state_of_64_taps_of_4096_channels_on_a_gpu_takes_less_than_32_mib():
    state = TapState(4096, CaptureSettings().slots_on("cuda"), torch.device("meta"))
    assert 64 * sum(buffer.nbytes for buffer in state.buffers()) < 32 * 2**20
