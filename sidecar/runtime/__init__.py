"""Runtimes: load a model, run its plain and its instrumented variant. One protocol, one file a back end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from sidecar.errors import ConfigError
from sidecar.runtime.examples import UNKNOWN_SIZE
from sidecar.settings import ModelSettings
from sidecar.types import Formats, Observer, Shapes, TapPoint, Tensor, TensorSpec

RUNTIMES = {"torch": "sidecar.runtime.torch:TorchRuntime", "onnx": "sidecar.runtime.onnx:OnnxRuntime"}
"""Name in the settings -> class, imported only when chosen."""

DECOUPLED = "sidecar.runtime.decoupled:DecoupledRuntime"
"""The class of models whose settings say so; they go with the torch runtime only."""

EXTRAS = {"onnx": "'activation-sidecar[cpu]', or [gpu] for CUDA"}
"""Name in the settings -> what to install for it beside the sidecar itself."""


Empty = Callable[[str, Sequence[int], np.dtype[Any]], npt.NDArray[Any]]
"""Gives memory of a shape and type for the input of that name."""


def new(_name: str, shape: Sequence[int], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Memory that nobody has used, and that lives as long as anybody needs it."""
    return np.empty(shape, dtype)


class Runtime(Protocol):
    """One loaded model version. `plain` and `instrumented` run on the thread that calls.

    weight_bytes: of its weights in memory; both variants share them.
    empty: where the inputs of a batch are put together. It may give the same memory to the next batch of a thread.
    """

    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weight_bytes: int
    empty: Empty

    def prepare_thread(self) -> None:
        """Called once on a thread before it runs the model."""

    def prepare_instance(self) -> None:
        """Called after it on each of several threads that run the model at the same time."""

    def example(self, rows: int, length: int = UNKNOWN_SIZE) -> Mapping[str, Tensor]:
        """Valid inputs of a batch of `rows`, with `length` for sizes that are not known; the same at each call."""

    def tap_points(self) -> Sequence[TapPoint]:
        """Everywhere that an activation may be seen, in the model's order; some of it may never run."""

    def activation_shapes(self, names: Sequence[str], batch: Mapping[str, Tensor]) -> Shapes:
        """Shapes at the named points during one plain run.

        A point without a floating-point activation on the model's device is absent.
        """

    def activation_formats(self, names: Sequence[str]) -> Formats:
        """Number formats at the named points, as far as they are known once `activation_shapes` was called."""

    def instrument(self, observers: Mapping[str, Observer]) -> None:
        """Build the instrumented variant: a second graph over the same weights, an observer at each named point.

        Raises ModelError when the model does not allow it.
        """

    def activations(self, name: str, batch: Mapping[str, Tensor]) -> Sequence[torch.Tensor]:
        """At a point that is tapped, float32 as the model made it, at each time that one run of `batch` comes there.

        Beside requests, which run on other variants; on one thread at a time. Raises ModelError where that cannot be.
        """

    def plain(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]: ...

    def instrumented(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]: ...


def load(settings: ModelSettings) -> Runtime:
    """Load the model that `settings` describe. Raises ConfigError or ModelError."""
    if settings.runtime not in RUNTIMES:
        raise ConfigError(f"runtime {settings.runtime!r} is unknown; there are {', '.join(RUNTIMES)}")
    module, _, name = (DECOUPLED if settings.decoupled else RUNTIMES[settings.runtime]).partition(":")
    try:
        back_end = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if settings.runtime not in EXTRAS:
            raise
        needs = EXTRAS[settings.runtime]
        raise ConfigError(f"runtime {settings.runtime} needs {error.name}: pip install {needs}") from error
    runtime: Runtime = back_end(settings)
    return runtime


def concatenate(parts: Sequence[Mapping[str, Tensor]], empty: Empty = new) -> dict[str, Tensor]:
    """Inputs of several requests as one batch along dimension 0; always a copy, so it may be written to."""
    return {name: join([part[name] for part in parts], name, empty) for name in parts[0]}


def join(parts: Sequence[Tensor], name: str, empty: Empty) -> Tensor:
    """`parts` of the input `name` along dimension 0, in memory from `empty`."""
    arrays = [part.array for part in parts]
    first = arrays[0]
    if len(arrays) == 1:
        joined = empty(name, first.shape, first.dtype)
        joined[...] = first
    else:
        joined = empty(name, (sum(map(len, arrays)), *first.shape[1:]), first.dtype)
        np.concatenate(arrays, out=joined)
    return Tensor(parts[0].datatype, joined)
