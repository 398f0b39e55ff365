"""Torch models from a factory, a `.pt2` package or a Hugging Face folder: two variants over one set of weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Protocol

import torch
from torch import nn

from sidecar.errors import InferenceError, ModelError
from sidecar.runtime import Empty, exported, factory, modules, new, transformers
from sidecar.runtime.examples import UNKNOWN_SIZE, example
from sidecar.runtime.signature import specs
from sidecar.runtime.staging import Staging
from sidecar.runtime.trial import batch_sizes
from sidecar.settings import ModelSettings
from sidecar.types import Formats, Observer, Shapes, TapPoint, Tensor, TensorSpec

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


_USUAL_THREADS = torch.get_num_threads()
"""What torch chose for this machine, read before any model sets another number."""


def share(model: nn.Module) -> nn.Module:
    """A copy of the module tree over the same parameters and buffers. Raises ModelError."""
    return _copied(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def apart(model: nn.Module) -> nn.Module:
    """The same with buffers of its own: a model may write into them, and requests run at the same time."""
    shared = {id(tensor): tensor for tensor in model.parameters()}
    own = {id(tensor): tensor.detach().clone() for tensor in model.buffers()}
    return _copied(model, shared | own)


def _copied(model: nn.Module, instead: dict[int, torch.Tensor]) -> nn.Module:
    """A copy that has `instead` wherever the model refers to a tensor of that id. Raises ModelError."""
    try:
        return copy.deepcopy(model, instead)
    except (TypeError, RuntimeError) as error:
        raise ModelError(f"the model cannot be copied to look into it: {error}") from error


class Graph(Protocol):
    """How a model is tapped: `modules` does it with hooks, `exported` with nodes of a graph."""

    def tap_points(self, model: Any) -> list[TapPoint]: ...

    def install(self, model: Any, calls: Mapping[str, Callable[[torch.Tensor], None]]) -> Callable[[], None]:
        """Call each with the activation at the point of that name, every time that `model` computes it.

        Returns what ends that.
        """


class TorchRuntime:
    platform = "pytorch"

    def __init__(self, settings: ModelSettings) -> None:
        for tensor in (*settings.inputs, *settings.outputs):
            if tensor.datatype not in _TORCH_DTYPES:
                raise ModelError(
                    f"{tensor.name} has datatype {tensor.datatype}; the torch runtime takes {', '.join(_TORCH_DTYPES)}"
                )
        self.inputs = specs(settings.inputs)
        self.outputs = specs(settings.outputs)
        self._settings = settings
        try:
            self._device = torch.device(settings.device)
            torch.empty(0, device=self._device)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"device {settings.device} cannot be used: {error}") from error
        # On a CPU a model may give back its input, and replies must not see the next batch.
        self.empty: Empty = Staging().empty if self._device.type == "cuda" else new
        self._graph: Graph = modules
        self._positional = len(self.inputs)
        self._copy: Callable[[], nn.Module] = lambda: share(self._model)
        self._copy_apart: Callable[[], nn.Module] = lambda: apart(self._model)
        self._model = self._load(settings)
        self.weight_bytes = _bytes(self._model)
        self._plain = self._instrumented = self._variant(self._model)
        self._seen: list[torch.Tensor] = []
        self._again: nn.Module | None = None
        self._looking = "", lambda: None
        self._formats: dict[str, str] = {}

    def _load(self, settings: ModelSettings) -> nn.Module:
        """The model on its device, ready for inference. Raises ConfigError or ModelError."""
        path = settings.path
        if path is not None and path.suffix == exported.SUFFIX:
            self._graph = exported
            package, self._positional = exported.load(path, self._device, trust=settings.trust)
            self._copy = package.module
            self._copy_apart = lambda: exported.apart(package.module())
            return package.module()
        if path is not None and not path.is_dir():
            raise ModelError(f"path {path} must be a {exported.SUFFIX} package or a Hugging Face folder")
        if path is not None:
            self._positional = 0
            model = transformers.load(path)
        else:
            model = factory.build(settings.source or "")
            if settings.weights is not None:
                factory.load_weights(model, settings.weights)
        try:
            return model.eval().to(self._device)
        except RuntimeError as error:
            raise ModelError(f"device {settings.device} cannot hold the model: {error}") from error

    def _variant(self, model: nn.Module) -> Callable[..., Any]:
        """What runs `model`: its graphs for every size of a batch, or itself. Raises ModelError."""
        if not self._settings.compile:
            return model
        from sidecar.runtime import compiled

        compiled.require_compiler(self._device)
        # A graph holds only for the number of threads that it was compiled for.
        self.prepare_thread()
        with torch.inference_mode():
            calls = [self._arguments(self.example(rows)) for rows in batch_sizes(self._settings)]
            for args, kwargs in calls:
                for spec, tensor in zip(self.inputs, (*args, *kwargs.values()), strict=True):
                    compiled.leave_free(tensor, spec.shape)
            return compiled.compile_for(model, calls)

    def prepare_thread(self) -> None:
        torch.set_num_threads(self._settings.threads or _USUAL_THREADS)

    def prepare_instance(self) -> None:
        """A stream of its own on a GPU, or batches would follow one another there. Not yet run on a device."""
        if self._device.type == "cuda":
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            # The weights came on the default stream.
            stream.wait_stream(torch.cuda.default_stream(self._device))
            torch.cuda.set_stream(stream)

    def example(self, rows: int, length: int = UNKNOWN_SIZE) -> dict[str, Tensor]:
        return example(self.inputs, rows, length, batched=self._settings.batching.max_rows > 0)

    def _arguments(self, batch: Mapping[str, Tensor]) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """The inputs on the model's device, in their order: by position and, beyond those, by name."""
        tensors = []
        for spec in self.inputs:
            values = torch.from_numpy(batch[spec.name].array)
            if spec.datatype == "BF16":
                values = values.view(torch.bfloat16)
            # Nothing is waited for where the memory is pinned.
            tensors.append(values.to(self._device, non_blocking=True))
        names = [spec.name for spec in self.inputs[self._positional :]]
        by_name = dict(zip(names, tensors[self._positional :], strict=True))
        return tensors[: self._positional], by_name

    def tap_points(self) -> list[TapPoint]:
        return self._graph.tap_points(self._model)

    def activation_shapes(self, names: Sequence[str], batch: Mapping[str, Tensor]) -> Shapes:
        shapes: dict[str, tuple[int, ...]] = {}

        def note(name: str) -> Callable[[torch.Tensor], None]:
            def note(x: torch.Tensor) -> None:
                if x.is_floating_point() and x.dim() > 0 and x.device.type == self._device.type:
                    shapes.setdefault(name, tuple(x.shape))
                    self._formats[name] = str(x.dtype).removeprefix("torch.")

            return note

        trial = self._copy()
        self._graph.install(trial, {name: note(name) for name in names})
        self._run(trial, batch)
        return shapes

    def activation_formats(self, names: Sequence[str]) -> Formats:
        return {name: self._formats[name] for name in names if name in self._formats}

    def instrument(self, observers: Mapping[str, Observer]) -> None:
        variant = self._copy()
        if self._settings.compile:
            from sidecar.runtime.compiled import InGraph

            self._graph.install(variant, {name: InGraph(observer) for name, observer in observers.items()})
        else:
            self._graph.install(variant, {name: observer.fold for name, observer in observers.items()})
        self._instrumented = self._variant(variant)

    def activations(self, name: str, batch: Mapping[str, Tensor]) -> list[torch.Tensor]:
        if self._device.type != "cpu":
            raise ModelError(
                "inputs are run again on a CPU only: on a GPU that would take memory that requests may need"
            )
        if self._again is None:
            self._again = self._copy_apart()
        if self._looking[0] != name:
            self._looking[1]()
            self._looking = name, self._graph.install(self._again, {name: self._see})
        self._seen.clear()
        usual = torch.get_num_threads()
        # One core is left to requests where there are two.
        torch.set_num_threads(1)
        try:
            self._run(self._again, batch)
        finally:
            torch.set_num_threads(usual)
        return self._seen.copy()

    def _see(self, x: torch.Tensor) -> None:
        # A copy, because what follows may change x in place.
        self._seen.append(x.detach().to(torch.float32, copy=True))

    def plain(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._run(self._plain, batch)

    def instrumented(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._run(self._instrumented, batch)

    def _run(self, model: Callable[..., Any], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.inference_mode():
            by_position, by_name = self._arguments(batch)
            return self.named(model(*by_position, **by_name))

    def named(self, output: object) -> dict[str, Tensor]:
        """What the model returned as the outputs of the settings. Raises InferenceError where it is not those."""
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
        elif is_dataclass(output):
            picked = [getattr(output, spec.name, None) for spec in self.outputs]
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


def _bytes(model: nn.Module) -> int:
    """Of all parameters and buffers; those that share storage count once."""
    storages = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _to_numpy(tensor: torch.Tensor) -> Any:
    tensor = tensor.detach().cpu().contiguous()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
