"""Memory that a model asks for and gives back."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sidecar.errors import ModelError

# Read in what torch 2.13 and ONNX Runtime 1.31 raise, whose kinds of error say no more than that something failed.
_TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",  # torch
    "CUBLAS_STATUS_ALLOC_FAILED",  # torch, for the workspace of a library of CUDA
    "Failed to allocate memory for requested buffer",  # ONNX Runtime's arena
    "std::bad_alloc",  # ONNX Runtime, beside it
    "CUDA failure 2: out of memory",  # ONNX Runtime on a GPU, as its source has it
)


def found_no_memory(error: BaseException | None) -> bool:
    """Whether it says that, by its kind or, as torch on a CPU and ONNX Runtime do, only by its text."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)


@contextmanager
def must_fit(what: str) -> Iterator[None]:
    """Raises ModelError where what is done inside finds no memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not found_no_memory(error):
            raise
        raise ModelError(f"{what} does not fit into memory: {error or type(error).__name__}") from error


def gpu_memory() -> dict[tuple[int, str], int]:
    """(number of the GPU, `allocated`, `reserved` or `total`) -> bytes; only of GPUs that torch holds memory of.

    From what torch itself has noted down: no call reaches a device, where a graph may be being captured.
    """
    found = {}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for device in range(torch.cuda.device_count()):
            if reserved := torch.cuda.memory_reserved(device):
                found[device, "allocated"] = torch.cuda.memory_allocated(device)
                found[device, "reserved"] = reserved
                found[device, "total"] = torch.cuda.get_device_properties(device).total_memory
    return found


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
