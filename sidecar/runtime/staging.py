"""Memory in which the inputs of a batch are put together on their way to a GPU."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def pinned(size: int) -> torch.Tensor:
    """`size` bytes that a device reads by itself, while the host goes on. Not yet run on a device."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


class Staging(threading.local):
    """One piece of memory a thread for each input, used for batch after batch.

    A batch must have been read when its thread puts the next one together, and nothing of it may live on elsewhere:
    a run on a GPU ends by waiting for its outputs, and they are copies.
    """

    def __init__(self, allocate: Callable[[int], torch.Tensor] = pinned) -> None:
        self._allocate = allocate
        self._held: dict[str, torch.Tensor] = {}

    def empty(self, name: str, shape: Sequence[int], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """An array with whatever it held before."""
        size = math.prod(shape) * dtype.itemsize
        held = self._held.get(name)
        if held is None or held.numel() < size:
            held = self._held[name] = self._allocate(size)
        return held.numpy()[:size].view(dtype).reshape(shape)
