"""The observe op on one thread, beside the least there is (reading the tensor) and beside plain torch ops."""

import time
from collections.abc import Callable
from typing import Any

import torch

from sidecar.capture.observe import OpState, bind
from sidecar.capture.state import TapState

SHAPE = (1, 2048, 4096)
ROUNDS = 15
# Activations whose folding takes less than this are folded many times over.
LEAST_ELEMENTS = 1 << 19
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


def bound(x: torch.Tensor, channel_dim: int = -1) -> Callable[[], object]:
    """Fold `x` as an eager hook does, each of its rows into a slot of its own."""
    rows = x.shape[0]
    state = TapState(x.shape[channel_dim], rows, x.device)
    row_slot, bank = torch.arange(rows, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    kept = OpState(row_slot, 1, bank, *state.held, rows, NEAR_ZERO)
    observe = bind(x.device, channel_dim, kept)
    return lambda: observe(x)


def measure(ways: dict[str, tuple[Callable[[], object], int]]) -> dict[str, float]:
    """Name -> nanoseconds an element, the best of rounds in which the ways alternate.

    ways: what to call, and the elements that it goes through.
    """
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, (way, elements) in ways.items():
            times = max(1, LEAST_ELEMENTS // elements)
            started = time.perf_counter()
            for _ in range(times):
                way()
            best[name] = min(best[name], (time.perf_counter() - started) / times / elements * 1e9)
    return best


def run() -> dict[str, Any]:
    torch.set_num_threads(1)
    x = torch.randn(SHAPE)
    best = measure(
        {
            "read floor (torch.sum)": (x.sum, x.numel()),
            "observe": (bound(x), x.numel()),
            "naive torch": (lambda: naive(x), x.numel()),
        }
    )
    print(f"observe op, float32 {list(SHAPE)}, one thread, ns an element (best of {ROUNDS}):")
    for name, cost in best.items():
        print(f"  {name:<24}{cost:8.3f}   {cost / best['observe']:6.2f} x observe")
    others = {
        "bfloat16 [1, 2048, 4096]": (x.bfloat16(), -1),
        "float16 [1, 2048, 4096]": (x.half(), -1),
        "float32 after ReLU [1, 2048, 4096]": (x.relu(), -1),
        "float32 [8, 128, 768]": (torch.randn(8, 128, 768), -1),
        "float32 [32, 16, 128]": (torch.randn(32, 16, 128), -1),
        "float32 [256, 1, 768]": (torch.randn(256, 1, 768), -1),
        "float32 [256, 10]": (torch.randn(256, 10), -1),
        "float32 [8, 64, 56, 56], channels first": (torch.randn(8, 64, 56, 56), 1),
    }
    costs = measure({name: (bound(x, dim), x.numel()) for name, (x, dim) in others.items()})
    print("the same of other activations, ns an element:")
    for name, cost in costs.items():
        print(f"  {name:<40}{cost:8.3f}")
    return {
        "cpu_ns_per_element": best["observe"],
        "read_floor_ns_per_element": best["read floor (torch.sum)"],
        "naive_ns_per_element": best["naive torch"],
        "others_ns_per_element": costs,
    }
