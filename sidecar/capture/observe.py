"""`sidecar::observe`: the op that stands in the model's graph and folds an activation into a tap's state.

It returns nothing and mutates five buffers, so it runs alike in eager hooks, under `torch.compile`, in
captured graphs and after `torch.export`. `layout` says what the buffers hold.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch.library import Library

KERNELS = {"cpu": "sidecar.capture.launch_cpu", "cuda": "sidecar.capture.cuda.launch"}
"""Device -> module with its `observe(x, channel_dim, state)`, imported when first used."""

_LIBRARY: Any = Library("sidecar", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "observe(Tensor x, int channel_dim, Tensor row_slot, int rows_per_slot, Tensor bank, "
    "Tensor(a!) histogram, Tensor(b!) integers, Tensor(c!) floats, Tensor(d!) projections, "
    "Tensor(e!) peaks, int slots, float near_zero) -> ()"
)


def as_rows(x: torch.Tensor, channel_dim: int) -> torch.Tensor:
    """[rows, ..., C, ...] -> [rows, positions, C], a view wherever the strides allow one."""
    if x.dim() == 3 and channel_dim == -1:
        return x
    if x.dim() == 1:
        return x[:, None, None]
    last = x.movedim(channel_dim, -1) if channel_dim not in (-1, x.dim() - 1) else x
    return last[:, None] if last.dim() == 2 else last.flatten(1, -2)


class OpState(NamedTuple):
    """The arguments of the op after `channel_dim`, in its order."""

    row_slot: torch.Tensor
    rows_per_slot: int
    bank: torch.Tensor
    histogram: torch.Tensor
    integers: torch.Tensor
    floats: torch.Tensor
    projections: torch.Tensor
    peaks: torch.Tensor
    slots: int
    near_zero: float

    def addresses(self) -> tuple[int, ...]:
        """The arguments before `near_zero` for the CPU kernel. They stay true as long as the tensors live."""
        state = (self.bank, self.histogram, self.integers, self.floats, self.projections, self.peaks)
        pointers = (tensor.data_ptr() for tensor in state)
        return (self.row_slot.data_ptr(), self.rows_per_slot, *pointers, self.slots)

    def bounds(self) -> tuple[int, int]:
        """The most rows that `row_slot` covers, and the channels that the state was made for."""
        return self.row_slot.numel() * self.rows_per_slot, self.peaks.shape[1]


def check_bounds(rows: int, channels: int, most_rows: int, most_channels: int) -> None:
    """Raises ValueError for an activation that would reach beyond the state: kernels have only addresses."""
    if rows > most_rows or channels != most_channels:
        raise ValueError(
            f"{rows} rows of {channels} channels are no activation of up to {most_rows} rows of {most_channels}"
        )


def bind(device: torch.device, channel_dim: int, state: OpState) -> Callable[[torch.Tensor], None]:
    """The op with everything but x fixed, for eager hooks.

    On a CPU it goes to the kernel without the dispatcher, which costs as much as a small activation does.
    """
    if device.type != "cpu":
        return lambda x: observe(x, channel_dim, *state)
    bound: Callable[[torch.Tensor], None] = _kernel("cpu").bind(channel_dim, state)
    return bound


def fold_part(x: torch.Tensor, channel_dim: int, state: OpState) -> None:
    """The op, without the dispatcher, on a part of an activation; `state.row_slot` is that of its rows."""
    _kernel(x.device.type).observe(x, channel_dim, state)


@cache
def _kernel(device: str) -> Any:
    return import_module(KERNELS[device])


def _observe_cpu(x: torch.Tensor, channel_dim: int, *arguments: Any) -> None:
    _kernel("cpu").observe(x, channel_dim, OpState(*arguments))


def _observe_cuda(x: torch.Tensor, channel_dim: int, *arguments: Any) -> None:
    _kernel("cuda").observe(x, channel_dim, OpState(*arguments))


def _observe_fake(*_: object) -> None:
    return None


_LIBRARY.impl("observe", _observe_cpu, "CPU")
_LIBRARY.impl("observe", _observe_cuda, "CUDA")
torch.library.register_fake("sidecar::observe", _observe_fake, lib=_LIBRARY)

observe = torch.ops.sidecar.observe.default
