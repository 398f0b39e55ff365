"""Variants as compiled graphs: made as the model is loaded, never while a request waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from sidecar.errors import ModelError
from sidecar.runtime.trial import MODEL_FAULTS
from sidecar.types import Observer

# A tap stores what a fused kernel would keep in float32; rounding in either case keeps answers the same.
_OPTIONS: dict[str, Any] = {"emulate_precision_casts": True}

Call = tuple[Sequence[torch.Tensor], Mapping[str, torch.Tensor]]
"""Arguments of one run, by position and by name."""


def require_compiler(device: torch.device) -> None:
    """Raises ModelError where nothing can be compiled for `device`, before the model has cost any time."""
    if device.type != "cpu":
        return
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ModelError(
            "compile = true needs a C++ compiler for device cpu and found none: install g++, "
            "name another in the environment variable CXX, or set compile = false"
        ) from error


def leave_free(tensor: torch.Tensor, shape: Sequence[int]) -> None:
    """Have graphs keep open the sizes that are -1 in `shape`; a size of one always has a graph of its own."""
    for dimension, size in enumerate(shape):
        if size < 0 and tensor.shape[dimension] > 1:
            torch._dynamo.mark_dynamic(tensor, dimension)


def compile_for(model: nn.Module, calls: Iterable[Call]) -> Callable[..., Any]:
    """`model` as one graph for each call; what fits none of the graphs runs uncompiled.

    Raises ModelError when the model cannot be one graph, or fixes a size that `leave_free` left open.
    """

    def run(*args: torch.Tensor, **kwargs: torch.Tensor) -> object:
        return model(*args, **kwargs)

    # Graphs are kept by code object and hooks are not among what tells them apart: with the model's own
    # code, or with this one for both variants, the instrumented one would run the graph of the plain one.
    run.__code__ = run.__code__.replace()
    compiled = torch.compile(run, fullgraph=True, options=_OPTIONS)
    try:
        for args, kwargs in calls:
            compiled(*args, **kwargs)
    except MODEL_FAULTS as error:
        raise ModelError(
            f"compile = true, and the model is not one graph for all batches: {error}"
        ) from error
    only_what_is_compiled: Callable[..., Any] = torch._dynamo.run(run)
    return only_what_is_compiled


class InGraph(nn.Module):
    """An observer as a node of a compiled graph: its tensors are buffers, which a graph may mutate in place."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self._op = observer.op
        self._arguments: list[Any] = []
        for number, argument in enumerate(observer.arguments):
            if isinstance(argument, torch.Tensor):
                self.register_buffer(f"state_{number}", argument, persistent=False)
            self._arguments.append(None if isinstance(argument, torch.Tensor) else argument)

    def forward(self, x: torch.Tensor) -> None:
        self._op(
            x,
            *(
                getattr(self, f"state_{number}") if argument is None else argument
                for number, argument in enumerate(self._arguments)
            ),
        )
