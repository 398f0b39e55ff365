"""The observe op on one thread, beside the least there is (reading the tensor) and beside plain torch ops."""

import time
from collections.abc import Callable
from typing import Any

import torch

from sidecar.capture.observe import OpState, bind
from sidecar.capture.state import TapState

SHAPE = (1, 2048, 4096)
ROUNDS = 15
NEAR_ZERO = 2.0**-10


def naive(x: torch.Tensor) -> None:
    """The same statistics as most people would write them."""
    flat = x.reshape(-1, x.shape[-1])
    size = flat.abs()
    finite = torch.isfinite(flat)
    flat.min(), flat.max(), size.max(0)
    (flat == 0).sum(), torch.isnan(flat).sum(), (~finite).sum()
    (size > NEAR_ZERO).sum(0), (size >= 6).sum(0)
    flat.sum(0), (flat**2).sum(0)
    for power in (1, 2, 3, 4):
        flat.double().pow(power).sum()
    torch.bincount((flat.view(torch.int32) >> 20).reshape(-1) & 0xFFF, minlength=4096)


def run() -> dict[str, Any]:
    torch.set_num_threads(1)
    x = torch.randn(SHAPE)
    state = TapState(SHAPE[-1], 16, x.device)
    row_slot, bank = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    kept = OpState(row_slot, 1, bank, state.histogram, state.integers, state.floats, 16, NEAR_ZERO)
    observe = bind(x.device, -1, kept)
    ways: dict[str, Callable[[], object]] = {
        "read floor (torch.sum)": x.sum,
        "observe": lambda: observe(x),
        "naive torch": lambda: naive(x),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            best[name] = min(best[name], (time.perf_counter() - started) / x.numel() * 1e9)
    print(f"observe op, float32 {list(SHAPE)}, one thread, ns an element (best of {ROUNDS}):")
    for name, cost in best.items():
        print(f"  {name:<24}{cost:8.3f}   {cost / best['observe']:6.2f} x observe")
    return {
        "cpu_ns_per_element": best["observe"],
        "read_floor_ns_per_element": best["read floor (torch.sum)"],
        "naive_ns_per_element": best["naive torch"],
    }
