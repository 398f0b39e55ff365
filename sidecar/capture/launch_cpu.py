"""The observe op on a CPU: from tensors to the addresses and strides that the kernel takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sidecar.capture import kernel_cpu
from sidecar.capture.observe import OpState, as_rows, check_shape
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


def _fold_rows(
    x: torch.Tensor, channel_dim: int, most_rows: int, channels: int, state: tuple[float, ...]
) -> None:
    if (kind := _KINDS.get(x.dtype)) is None:
        x, kind = x.float(), FLOAT32
    if not x.is_cpu:
        raise ValueError(f"an activation on {x.device} cannot be observed on a CPU")
    x = as_rows(x, channel_dim)
    shape = x.shape
    check_shape(shape, most_rows, channels)
    if x.numel():
        _fold(x.data_ptr(), kind, *shape, *x.stride(), *state)
