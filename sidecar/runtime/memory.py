"""Memory that a model asks for and gives back."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sidecar.errors import ModelError

OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)


@contextmanager
def must_fit(name: str) -> Iterator[None]:
    """Raises ModelError where what is done inside finds no memory."""
    try:
        yield
    except OUT_OF_MEMORY as error:
        raise ModelError(f"model {name} does not fit into memory: {error or type(error).__name__}") from error


def return_freed_memory() -> None:
    """To the system and to other models.

    Hooks tie a model and its observers into cycles, glibc keeps what was freed in small pieces (what sessions of ONNX
    Runtime free while they are made is twice the weights and more), and torch keeps what was freed on a GPU.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
