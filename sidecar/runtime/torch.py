"""Torch models: a factory named in the settings, weights from safetensors, two variants over one set of weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sidecar.errors import InferenceError, ModelError
from sidecar.runtime import modules
from sidecar.settings import ModelSettings, TensorSettings
from sidecar.types import Observer, Shapes, TapPoint, Tensor, TensorSpec

_TORCH_DTYPES = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "FP32": torch.float32,
    "FP64": torch.float64,
    "BF16": torch.bfloat16,
}


def build(source: str) -> nn.Module:
    """Import and call the factory `package.module:factory`. Raises ModelError."""
    module_name, _, attribute = source.partition(":")
    try:
        factory = getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ModelError(f"source {source} cannot be imported: {error}") from error
    if not callable(factory):
        raise ModelError(
            f"source {source} is a {type(factory).__name__}, must be a function that returns a torch.nn.Module"
        )
    model = factory()
    if not isinstance(model, nn.Module):
        raise ModelError(f"source {source} returned {type(model).__name__}, must return a torch.nn.Module")
    return model


def load_weights(model: nn.Module, path: Path) -> None:
    """Load safetensors strictly: every tensor of the model and no other. Raises ModelError."""
    try:
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise ModelError(f"weights {path} do not exist") from error
    except (SafetensorError, OSError) as error:
        raise ModelError(f"weights {path} are not a safetensors file: {error}") from error
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ModelError(f"weights {path} do not fit the model: {error}") from error


def share(model: nn.Module) -> nn.Module:
    """A copy of the module tree over the same parameters and buffers. Raises ModelError."""
    held = [*model.parameters(), *model.buffers()]
    try:
        return copy.deepcopy(model, {id(tensor): tensor for tensor in held})
    except (TypeError, RuntimeError) as error:
        raise ModelError(f"the model cannot be copied for its instrumented variant: {error}") from error


class TorchRuntime:
    platform = "pytorch"

    def __init__(self, settings: ModelSettings) -> None:
        for tensor in (*settings.inputs, *settings.outputs):
            if tensor.datatype not in _TORCH_DTYPES:
                raise ModelError(
                    f"{tensor.name} has datatype {tensor.datatype}; the torch runtime takes {', '.join(_TORCH_DTYPES)}"
                )
        self.inputs = _specs(settings.inputs)
        self.outputs = _specs(settings.outputs)
        self._threads = settings.threads
        model = build(settings.source)
        if settings.weights is not None:
            load_weights(model, settings.weights)
        try:
            self._device = torch.device(settings.device)
            self._plain = model.eval().to(self._device)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"device {settings.device} cannot be used: {error}") from error
        self._instrumented: nn.Module | None = None

    def prepare_thread(self) -> None:
        if self._threads:
            torch.set_num_threads(self._threads)

    def example(self, rows: int) -> dict[str, Tensor]:
        """Standard normal floats, zeros elsewhere; unknown sizes are 1."""
        random = np.random.default_rng(0)
        batch = {}
        for spec in self.inputs:
            shape = tuple(1 if size < 0 else size for size in spec.shape)
            if spec.shape[:1] == (-1,):
                shape = (rows, *shape[1:])
            values = torch.zeros(shape, dtype=_TORCH_DTYPES[spec.datatype])
            if values.is_floating_point():
                values.copy_(torch.from_numpy(random.standard_normal(shape)))
            batch[spec.name] = Tensor(spec.datatype, _to_numpy(values))
        return batch

    def arguments(self, batch: Mapping[str, Tensor]) -> list[torch.Tensor]:
        """Positional arguments of the model, in the order of `inputs`, on its device."""
        tensors = []
        for spec in self.inputs:
            values = torch.from_numpy(batch[spec.name].array)
            if spec.datatype == "BF16":
                values = values.view(torch.bfloat16)
            tensors.append(values.to(self._device))
        return tensors

    def tap_points(self) -> list[TapPoint]:
        return modules.tap_points(self._plain)

    def activation_shapes(self, names: Sequence[str], batch: Mapping[str, Tensor]) -> Shapes:
        return modules.activation_shapes(self._plain, names, lambda: self.plain(batch))

    def instrument(self, observers: Mapping[str, Observer]) -> None:
        variant = share(self._plain)
        modules.install(variant, observers)
        self._instrumented = variant

    def plain(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._run(self._plain, batch)

    def instrumented(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._run(self._instrumented or self._plain, batch)

    def _run(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.inference_mode():
            output = model(*self.arguments(batch))
            return {
                spec.name: Tensor(spec.datatype, _to_numpy(self._typed(spec, tensor)))
                for spec, tensor in zip(self.outputs, self._pick(output), strict=True)
            }

    def _pick(self, output: object) -> Sequence[torch.Tensor]:
        picked: Sequence[object]
        if isinstance(output, Mapping):
            picked = [output.get(spec.name) for spec in self.outputs]
        elif isinstance(output, tuple | list):
            picked = output[: len(self.outputs)]
        else:
            picked = [output]
        if len(picked) != len(self.outputs) or not all(isinstance(item, torch.Tensor) for item in picked):
            raise InferenceError(
                f"the model did not return the outputs {', '.join(spec.name for spec in self.outputs)} as tensors"
            )
        return picked  # type: ignore[return-value]

    @staticmethod
    def _typed(spec: TensorSpec, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype != _TORCH_DTYPES[spec.datatype]:
            raise InferenceError(f"output {spec.name} is {tensor.dtype}, configured as {spec.datatype}")
        return tensor


def _specs(tensors: Sequence[TensorSettings]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors)


def _to_numpy(tensor: torch.Tensor) -> Any:
    tensor = tensor.detach().cpu().contiguous()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
