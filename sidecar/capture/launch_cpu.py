"""The observe op on a CPU: from tensors to the addresses and strides that the kernel takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
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

_MOST_LAYOUTS = 1024
"""That a tap knows at a time."""


def observe(x: torch.Tensor, channel_dim: int, state: OpState) -> None:
    """Fold x into the bank that is being written.

    Raises ValueError for an activation that would reach beyond the state.
    """
    _known_folder(channel_dim, state.addresses(), *state.bounds(), state.near_zero)(x)


def bind(channel_dim: int, state: OpState) -> Callable[[torch.Tensor], None]:
    """The same with everything but x fixed. It keeps the state alive."""
    return _folder(channel_dim, state.addresses(), *state.bounds(), state.near_zero, state)


def _folder(
    channel_dim: int,
    addresses: tuple[int, ...],
    most_rows: int,
    channels: int,
    near_zero: float,
    alive: object = None,
) -> Callable[[torch.Tensor], None]:
    """A fold that makes what the kernel is told once for each layout of x."""
    known: dict[object, tuple[int, npt.NDArray[np.int64]]] = {}

    def fold(x: torch.Tensor, _alive: object = alive) -> None:
        if not x.is_cpu:
            raise ValueError(f"an activation on {x.device} cannot be observed on a CPU")
        layout = x.shape, x.stride(), x.dtype
        call = known.get(layout)
        if call is None:
            rows = as_rows(x if x.dtype in _KINDS else x.float(), channel_dim)
            if not rows.numel():
                return
            check_bounds(rows.shape[0], rows.shape[2], most_rows, channels)
            cells = np.array([_KINDS[rows.dtype], *rows.shape, *rows.stride(), *addresses, 0], dtype=np.int64)
            cells[-1:].view(np.float64)[0] = near_zero
            call = cells.ctypes.data, cells
            # What is a copy lies elsewhere every time.
            if rows.data_ptr() == x.data_ptr():
                if len(known) == _MOST_LAYOUTS:
                    known.clear()
                known[layout] = call
            x = rows
        _fold(x.data_ptr(), call[0])

    return fold


_known_folder = lru_cache(maxsize=1024)(_folder)
