"""`sidecar::observe`: the op that stands in the model's graph and folds an activation into a tap's state.

It returns nothing and mutates three buffers, so it runs alike in eager hooks, under `torch.compile` and
after `torch.export`. `layout` says what the buffers hold.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.library import Library

from sidecar.capture import kernel_cpu
from sidecar.capture.layout import HISTOGRAM_TABLES, PIVOT_CELLS, SLOT_COUNTS, SLOT_SUMS
from sidecar.capture.vector_block import BFLOAT16, FLOAT16, FLOAT32
from sidecar.sketch import BINS

_LIBRARY: Any = Library("sidecar", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "observe(Tensor x, int channel_dim, Tensor row_slot, int rows_per_slot, Tensor bank, "
    "Tensor(a!) histogram, Tensor(b!) integers, Tensor(c!) floats, int slots, float near_zero) -> ()"
)

_fold: Any = kernel_cpu.observe

_KERNEL_KINDS = {
    torch.float32: FLOAT32,
    torch.bfloat16: BFLOAT16,
    torch.float16: FLOAT16,
}


def as_rows(x: torch.Tensor, channel_dim: int) -> torch.Tensor:
    """[rows, ..., C, ...] -> [rows, positions, C], a view wherever the strides allow one."""
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
    slots: int
    near_zero: float

    def addresses(self) -> tuple[float, ...]:
        """The kernel's arguments after x. They stay true as long as the tensors live."""
        state = (self.bank, self.histogram, self.integers, self.floats)
        pointers = (tensor.data_ptr() for tensor in state)
        return (self.row_slot.data_ptr(), self.rows_per_slot, *pointers, self.slots, self.near_zero)

    def bounds(self) -> tuple[int, int]:
        """The most rows that `row_slot` covers, and the channels that the state was made for."""
        channels = (self.floats.shape[1] - PIVOT_CELLS - self.slots * SLOT_SUMS) // 3
        return self.row_slot.numel() * self.rows_per_slot, channels


def _observe_cpu(x: torch.Tensor, channel_dim: int, *arguments: Any) -> None:
    state = OpState(*arguments)
    _fold_rows(x, channel_dim, *state.bounds(), state.addresses())


@lru_cache(maxsize=1024)
def _walk(shape: tuple[int, ...], strides: tuple[int, ...], channel_dim: int) -> tuple[int, ...] | None:
    """Rows, positions and channels of an activation and the strides of each, or None if no strides lead through it.

    What `as_rows` says with views, which cost as much as a small activation does, once for each shape.
    """
    if len(shape) == 1:
        return shape[0], 1, 1, strides[0], 1, 1
    channel_dim = range(len(shape))[channel_dim]
    positions = position_step = 1
    for dim in reversed(range(1, len(shape))):
        if dim == channel_dim or shape[dim] == 1:
            continue
        if positions == 1:
            position_step = strides[dim]
        elif strides[dim] != positions * position_step:
            return None
        positions *= shape[dim]
    return shape[0], positions, shape[channel_dim], strides[0], position_step, strides[channel_dim]


def _fold_rows(
    x: torch.Tensor, channel_dim: int, most_rows: int, channels: int, state: tuple[float, ...]
) -> None:
    """Raises ValueError for an activation that would reach beyond the state: the kernel itself has only addresses."""
    if (kind := _KERNEL_KINDS.get(x.dtype)) is None:
        x, kind = x.float(), FLOAT32
    if (walk := _walk(x.shape, x.stride(), channel_dim)) is None:
        x = as_rows(x, channel_dim)
        walk = *x.shape, *x.stride()
    if walk[0] > most_rows or walk[2] != channels:
        raise ValueError(f"{list(x.shape)} is no activation of up to {most_rows} rows and {channels} channels")
    if walk[0] and walk[1] and channels:
        _fold(x.data_ptr(), kind, *walk, *state)


def bind(device: torch.device, channel_dim: int, state: OpState) -> Callable[[torch.Tensor], None]:
    """The op with everything but x fixed, for eager hooks.

    On a CPU it goes to the kernel without the dispatcher, which costs as much as a small activation does.
    """
    if device.type != "cpu":
        return lambda x: observe(x, channel_dim, *state)
    addresses = state.addresses()
    most_rows, channels = state.bounds()

    def fold(x: torch.Tensor, _alive: object = state) -> None:
        _fold_rows(x, channel_dim, most_rows, channels, addresses)

    return fold


def _observe_with_torch(
    x: torch.Tensor,
    channel_dim: int,
    row_slot: torch.Tensor,
    rows_per_slot: int,
    bank: torch.Tensor,
    histogram: torch.Tensor,
    integers: torch.Tensor,
    floats: torch.Tensor,
    slots: int,
    near_zero: float,
) -> None:
    """The same for any other device, in torch ops that never make the host wait for it."""
    subnormal_below = torch.finfo(x.dtype if x.dtype in _KERNEL_KINDS else torch.float32).tiny
    x = as_rows(x, channel_dim).float()
    rows, positions, channels = x.shape
    if not x.numel():
        return
    rows_per_slot = min(rows_per_slot, max(rows, 1))
    slot = row_slot[: -(-rows // rows_per_slot)].repeat_interleave(rows_per_slot)[:rows]
    seen = (slot >= 0)[:, None, None]
    slot = slot.clamp(min=0).long()
    finite = torch.isfinite(x) & seen
    bank = bank.long()
    cells = floats.index_select(0, bank)[0]
    pivot = cells[0]
    value = torch.where(finite, x, torch.zeros_like(x)).double()
    delta = torch.where(finite, value - pivot, torch.zeros_like(value))
    size = value.abs()
    fires = finite & (size > near_zero)
    over = finite & (size >= 6)
    zero = finite & (x == 0)

    split = PIVOT_CELLS + 3 * channels
    summed = torch.cat([value.sum((0, 1)), (value * value).sum((0, 1))])
    absmax = torch.maximum(cells[PIVOT_CELLS + 2 * channels : split], size.amax((0, 1)))
    slot_sums = cells[split:].view(slots, SLOT_SUMS)
    powers = torch.stack([(delta**k).sum((1, 2)) for k in (1, 2, 3, 4)], 1)
    infinity = torch.full_like(value, torch.inf)
    low = torch.where(finite, value, infinity).amin((1, 2))
    high = torch.where(finite, value, -infinity).amax((1, 2))
    slot_sums = torch.cat(
        [
            slot_sums[:, :4].index_add(0, slot, powers),
            slot_sums[:, 4].scatter_reduce(0, slot, low, "amin")[:, None],
            slot_sums[:, 5].scatter_reduce(0, slot, high, "amax")[:, None],
        ],
        1,
    )
    channel_sums = cells[PIVOT_CELLS : PIVOT_CELLS + 2 * channels] + summed
    floats.index_copy_(
        0, bank, torch.cat([cells[:PIVOT_CELLS], channel_sums, absmax, slot_sums.reshape(-1)])[None]
    )

    every = seen.expand_as(x)
    tallies = torch.stack(
        [
            mask.sum((1, 2))
            for mask in (
                every,
                zero,
                finite & ~fires,
                torch.isnan(x) & every,
                (x == torch.inf) & every,
                (x == -torch.inf) & every,
                finite & ~zero & (size < subnormal_below),
                over,
            )
        ],
        1,
    )
    tallies = torch.cat([tallies, seen[:, :, 0] * positions], 1)
    counts = torch.zeros(slots, SLOT_COUNTS, dtype=torch.int64, device=x.device).index_add_(0, slot, tallies)
    change = torch.cat([fires.sum((0, 1)), over.sum((0, 1)), counts.reshape(-1)])
    integers.index_add_(0, bank, change[None])

    bits = x.contiguous().view(torch.int32)
    key = (((bits & 0x7FFFFFFF) - 1) >> 20) + ((bits < 0) * (BINS // 2))
    counted = finite & ~zero
    key = torch.where(counted, key, torch.full_like(key, BINS - 1)).reshape(-1).long()
    bins = torch.zeros(BINS, dtype=torch.int32, device=x.device)
    bins.index_add_(0, key, counted.reshape(-1).to(torch.int32))
    tables = torch.zeros(HISTOGRAM_TABLES, BINS, dtype=torch.int32, device=x.device)
    tables[0] = bins
    histogram.index_add_(0, bank, tables[None])


def _observe_fake(*_: object) -> None:
    return None


_LIBRARY.impl("observe", _observe_cpu, "CPU")
_LIBRARY.impl("observe", _observe_with_torch, "CUDA")
torch.library.register_fake("sidecar::observe", _observe_fake, lib=_LIBRARY)

observe = torch.ops.sidecar.observe.default
