"""What observing costs on a GPU: `make bench-gpu`, writes build/bench/gpu.json.

The kernels' rate beside that of a device-to-device copy, and a random-weight transformer of the shape of a
7B language model, a few layers of it, with every residual tapped and every request observed, beside itself
without taps. Everything is alternated in one run, timed by events, and runs as a CUDA graph.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sidecar.capture.observe import observe
from sidecar.capture.state import TapState

NEAR_ZERO = 2.0**-10
SLOTS = 320
HIDDEN, HEADS, INNER, LAYERS = 4096, 32, 11008, 4
CONTEXT = 1024
ROUNDS = 30

# More than any cache holds, so that each tensor comes from memory.
COPIES = 6
KERNEL_SHAPES = {"[1, 8192, 4096] bfloat16": torch.bfloat16, "[1, 8192, 4096] float32": torch.float32}

CASES = {"prefill 2048": (1, 2048), "decode batch 64": (64, 1), "decode batch 1": (1, 1)}
GOALS = {"prefill 2048": 0.01, "decode batch 64": 0.01, "decode batch 1": 0.02}


class Tap(nn.Module):
    """The op with all its state, every row in a slot of its own."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.state = TapState(HIDDEN, SLOTS, torch.device("cuda"))
        self.register_buffer("row_slot", torch.arange(rows, dtype=torch.int32, device="cuda"))
        self.register_buffer("bank", torch.zeros(1, dtype=torch.int32, device="cuda"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held = self.state.held
        observe(x, -1, self.row_slot, 1, self.bank, *held, SLOTS, NEAR_ZERO)
        return x


class Block(nn.Module):
    """Attention over a cache and a gated MLP, pre-normalised, as in Llama."""

    def __init__(self, rows: int, positions: int) -> None:
        super().__init__()
        self.before_attention, self.before_mlp = nn.RMSNorm(HIDDEN), nn.RMSNorm(HIDDEN)
        self.qkv, self.out = nn.Linear(HIDDEN, 3 * HIDDEN, bias=False), nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.gate_up = nn.Linear(HIDDEN, 2 * INNER, bias=False)
        self.down = nn.Linear(INNER, HIDDEN, bias=False)
        if positions == 1:
            self.register_buffer("cache", torch.randn(2, rows, HEADS, CONTEXT, HIDDEN // HEADS))
        self.tap: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, positions, _ = x.shape
        heads = self.qkv(self.before_attention(x)).view(rows, positions, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        query, key, value = heads
        if positions == 1:
            self.cache[:, :, :, -1:] = heads[1:]
            key, value = self.cache
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=positions > 1)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.before_mlp(x)).chunk(2, -1)
        return self.tap(x + self.down(F.silu(gate) * up))


def captured(run: Callable[[], object]) -> Callable[[], None]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def alternated(ways: Mapping[str, Callable[[], object]], calls: int) -> dict[str, list[float]]:
    """Seconds of a call in each round, `calls` of them timed together."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(calls):
                way()
            end.record()
            end.synchronize()
            seconds[name].append(start.elapsed_time(end) / 1000 / calls)
    return seconds


def rates() -> dict[str, Any]:
    found = {}
    for name, dtype in KERNEL_SHAPES.items():
        inputs = [torch.randn(1, 8192, HIDDEN, device="cuda").to(dtype) for _ in range(COPIES)]
        target, tap = torch.empty_like(inputs[0]), Tap(1)
        size = inputs[0].nbytes
        seconds = alternated(
            {
                "copy": captured(lambda inputs=inputs, target=target: [target.copy_(x) for x in inputs]),
                "observe": captured(lambda inputs=inputs, tap=tap: [tap(x) for x in inputs]),
            },
            calls=5,
        )
        copy = 2 * size * COPIES / median(seconds["copy"]) / 1e12
        read = size * COPIES / median(seconds["observe"]) / 1e12
        found[name] = {"copy_tb_per_second": copy, "observe_tb_per_second": read, "ratio": read / copy}
        print(
            f"  {name}: copy {copy:.2f} TB/s (read and written), observe {read:.2f} TB/s, {read / copy:.0%}"
        )
    return found


def overhead(rows: int, positions: int) -> dict[str, Any]:
    blocks = [Block(rows, positions).to("cuda", torch.bfloat16) for _ in range(LAYERS)]
    x = torch.randn(rows, positions, HIDDEN, device="cuda", dtype=torch.bfloat16)
    model = nn.Sequential(*blocks)
    plain = captured(lambda: model(x))
    for block in blocks:
        block.tap = Tap(rows)
    instrumented = captured(lambda: model(x))
    seconds = alternated({"plain": plain, "observed": instrumented}, calls=10)
    pairs = zip(seconds["observed"], seconds["plain"], strict=True)
    return {
        "plain_ms": median(seconds["plain"]) * 1000,
        "observed_ms": median(seconds["observed"]) * 1000,
        "overhead": median(a / b for a, b in pairs) - 1,
    }


@torch.inference_mode()
def run() -> dict[str, Any]:
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, medians of {ROUNDS} alternated rounds")
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    figures["kernels"] = rates()
    print(f"transformer of 7B shape, {LAYERS} layers, every residual tapped, CUDA graphs:")
    for name, (rows, positions) in CASES.items():
        found = figures[name] = overhead(rows, positions)
        print(
            f"  {name:<16} plain {found['plain_ms']:8.3f} ms   observed {found['observed_ms']:8.3f} ms   "
            f"overhead {found['overhead']:6.2%} (goal {GOALS[name]:.0%})"
        )
    return figures


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a CUDA device")
    folder = Path("build/bench")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(run(), indent=2) + "\n")


if __name__ == "__main__":
    main()
