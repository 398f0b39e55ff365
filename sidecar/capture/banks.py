"""Where the two banks lie, and how their contents come to the host and go empty again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sidecar.capture.state import Contents, TapState
from sidecar.types import Tap

States = Mapping[Tap, TapState]

# Batches whose slots may be on their way to a GPU at once; a host that runs further ahead observes no more.
_STAGES = 8

_POLL_SECONDS = 0.001


class Banks:
    """On a CPU, where what is written is there at once.

    bank: names the bank that is written. row_slot: slot of each row of the batch. Both int32, on the device.
    staged: int32[max_rows], where the slots of the next batch are written before `send`.
    quiet: to be held while a CUDA graph is captured; a drain touches the device only when it holds it.
    """

    def __init__(self, max_rows: int, device: torch.device) -> None:
        self.bank = torch.zeros(1, dtype=torch.int32, device=device)
        self.row_slot = torch.full((max_rows,), -1, dtype=torch.int32, device=device)
        # On a CPU the same memory.
        self.staged: npt.NDArray[np.int32] = self.row_slot.cpu().numpy()
        self.quiet = threading.Lock()

    def send(self) -> bool:
        """Give the rows of the next batch their slots; False where the device cannot take them now."""
        return True

    def written(self) -> None:
        """The batch has run, or is at least under way."""

    def switch(self, bank: int) -> None:
        """Write `bank` from now on. It is empty."""
        self.bank.fill_(bank)

    def fetch(self, states: States, bank: int) -> Sequence[Contents]:
        """Contents of a bank that is written no more, for each state, until the next call."""
        return [state.contents(bank) for state in states.values()]

    def clear(self, states: States, bank: int, used: int, pivots: Sequence[float]) -> None:
        for state, pivot in zip(states.values(), pivots, strict=True):
            state.clear(bank, used, pivot)


class CudaBanks(Banks):
    """On a GPU. No thread ever waits for it; the drain asks now and then whether its copy has come.

    Everything that is not the model's own work runs on a stream of its own, ordered by events: a switch
    after the last observed batch, the copy and the clearing after the switch, and the next batch after it.

    cuda: `torch.cuda`; tests pass their own. wait: sleeps so many seconds.
    """

    def __init__(
        self,
        max_rows: int,
        device: torch.device,
        cuda: Any = torch.cuda,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(max_rows, device)
        self.staged = self.staged.copy()
        self._cuda = cuda
        self._wait = wait
        self._stream = cuda.Stream(device)
        self._pinned = device.type == "cuda"
        self._stages = torch.empty(_STAGES, max_rows, dtype=torch.int32, pin_memory=self._pinned)
        self._sent = [cuda.Event() for _ in range(_STAGES)]
        self._stage = 0
        self._written, self._switched, self._copied = cuda.Event(), cuda.Event(), cuda.Event()
        self._host = torch.empty(0, dtype=torch.uint8)

    def send(self) -> bool:
        sent = self._sent[self._stage]
        # An event must not be asked while a graph is captured.
        if self.quiet.locked() or not sent.query():
            return False
        staged = self._stages[self._stage]
        self._stage = (self._stage + 1) % _STAGES
        staged.copy_(torch.from_numpy(self.staged))
        stream = self._cuda.current_stream(self.bank.device)
        stream.wait_event(self._switched)
        self.row_slot.copy_(staged, non_blocking=True)
        sent.record(stream)
        return True

    def written(self) -> None:
        self._written.record(self._cuda.current_stream(self.bank.device))

    def switch(self, bank: int) -> None:
        with self._cuda.stream(self._stream):
            self._stream.wait_event(self._written)
            self.bank.fill_(bank)
            self._switched.record(self._stream)

    def fetch(self, states: States, bank: int) -> Sequence[Contents]:
        with self.quiet, self._cuda.stream(self._stream):
            packed = torch.cat([part for state in states.values() for part in state.pack(bank)])
            if self._host.numel() != packed.numel():
                # Only once: the self-check drains before the first request comes.
                self._host = torch.empty(packed.numel(), dtype=torch.uint8, pin_memory=self._pinned)
            self._host.copy_(packed, non_blocking=True)
            self._copied.record(self._stream)
        while not self._has_come():
            self._wait(_POLL_SECONDS)
        parts = torch.split(self._host, [state.bank_bytes for state in states.values()])
        return [state.unpack(part) for state, part in zip(states.values(), parts, strict=True)]

    def _has_come(self) -> bool:
        with self.quiet:
            return bool(self._copied.query())

    def clear(self, states: States, bank: int, used: int, pivots: Sequence[float]) -> None:
        with self.quiet, self._cuda.stream(self._stream):
            super().clear(states, bank, used, pivots)


def banks_on(device: torch.device, max_rows: int) -> Banks:
    return CudaBanks(max_rows, device) if device.type == "cuda" else Banks(max_rows, device)
