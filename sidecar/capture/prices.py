"""What the op costs, measured: for graphs that cannot be timed from inside, and for `sidecar taps`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from sidecar.capture.observe import observe
from sidecar.capture.state import TapState
from sidecar.capture.taps import Placement
from sidecar.types import Tap

_REPEATS = 7
_POSITIONS = 256


@dataclass(frozen=True, slots=True)
class Price:
    """Nanoseconds of a tap: one call of the op, and beyond that each value that it observes."""

    call: float
    value: float

    def of(self, calls: int, values: int) -> int:
        return round(self.call * calls + self.value * values)


def prices(plan: Sequence[Placement], near_zero: float, device: torch.device) -> dict[Tap, Price]:
    """The price of each tap, from the op on one position of its channels and on many, in float32."""
    found = {}
    for placement in plan:
        width = placement.tap.channels
        channels_last = placement.channel_dim == -1
        one, many = (
            op_seconds(
                (1, positions, width) if channels_last else (1, width, positions),
                -1 if channels_last else 1,
                1,
                near_zero,
                device,
            )
            for positions in (1, _POSITIONS)
        )
        value = max(many - one, 0.0) / (width * (_POSITIONS - 1))
        found[placement.tap] = Price(max(one - value * width, 0.0) * 1e9, value * 1e9)
    return found


def op_seconds(
    shape: tuple[int, ...], channel_dim: int, requests: int, near_zero: float, device: torch.device
) -> float:
    """Median seconds of the op on normal values of `shape`, all observed, divided evenly among `requests`."""
    x = torch.randn(shape, device=device)
    state = TapState(shape[channel_dim] if len(shape) > 1 else 1, requests, device)
    slots = torch.arange(requests, dtype=torch.int32, device=device)
    bank = torch.zeros(1, dtype=torch.int32, device=device)
    rows_per_slot = max(shape[0] // requests, 1)
    held = state.held

    def run() -> float:
        started = time.perf_counter()
        observe(x, channel_dim, slots, rows_per_slot, bank, *held, requests, near_zero)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - started

    run()
    return median(run() for _ in range(_REPEATS))
