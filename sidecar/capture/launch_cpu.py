"""The observe op on a CPU: from tensors to the addresses and strides that the kernel takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from sidecar.capture import kernel_cpu
from sidecar.capture.observe import OpState, as_rows, check_bounds
from sidecar.capture.vector_block import BFLOAT16, FLOAT16, FLOAT32

_fold: Any = kernel_cpu.observe

_KINDS = {
    torch.float32: FLOAT32,
    torch.bfloat16: BFLOAT16,
    torch.float16: FLOAT16,
}


def observe(x: torch.Tensor, channel_dim: int, state: OpState) -> None:
    """Fold x into the bank that is being written.

    Raises ValueError for an activation that would reach beyond the state.
    """
    _fold_rows(x, channel_dim, *state.bounds(), state.addresses())


def bind(channel_dim: int, state: OpState) -> Callable[[torch.Tensor], None]:
    """The same with everything but x fixed and looked up."""
    addresses = state.addresses()
    most_rows, channels = state.bounds()

    def fold(x: torch.Tensor, _alive: object = state) -> None:
        _fold_rows(x, channel_dim, most_rows, channels, addresses)

    return fold


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
    if (kind := _KINDS.get(x.dtype)) is None:
        x, kind = x.float(), FLOAT32
    if not x.is_cpu:
        raise ValueError(f"an activation on {x.device} cannot be observed on a CPU")
    if (walk := _walk(x.shape, x.stride(), channel_dim)) is None:
        x = as_rows(x, channel_dim)
        walk = *x.shape, *x.stride()
    check_bounds(walk[0], walk[2], most_rows, channels)
    if walk[0] and walk[1] and channels:
        _fold(x.data_ptr(), kind, *walk, *state)
