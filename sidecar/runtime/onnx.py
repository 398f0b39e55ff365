"""ONNX models: a file, checked, and two sessions of ONNX Runtime over one set of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from sidecar.errors import ConfigError, ModelError
from sidecar.runtime import Empty, new, onnx_signature
from sidecar.runtime.examples import UNKNOWN_SIZE, example
from sidecar.runtime.memory import return_freed_memory
from sidecar.runtime.onnx_external import ELEMENT_TYPES
from sidecar.runtime.onnx_file import OnnxFile, read
from sidecar.runtime.onnx_graph import Graph
from sidecar.runtime.onnx_points import tap_points
from sidecar.runtime.onnx_session import Engine, Session
from sidecar.runtime.onnx_variants import shape_of, shapes, variants
from sidecar.runtime.signature import specs
from sidecar.settings import ModelSettings
from sidecar.types import Formats, Observer, Shapes, TapPoint, Tensor


class OnnxRuntime:
    """`activation_shapes` and `instrument` need the weights as the file has them, and the second lets go of them."""

    platform = "onnxruntime_onnx"

    def __init__(self, settings: ModelSettings) -> None:
        if settings.path is None:
            raise ConfigError("runtime onnx needs path, an ONNX file")
        if settings.trust or settings.compile:
            raise ConfigError("trust and compile belong to runtime torch; runtime onnx needs neither")
        if settings.instances > 1 and settings.device != "cpu":
            raise ConfigError(
                "instances above 1 need device cpu with runtime onnx: its session has one stream"
            )
        for tensor in (*settings.inputs, *settings.outputs):
            if tensor.datatype not in ELEMENT_TYPES:
                raise ModelError(
                    f"{tensor.name} has datatype {tensor.datatype}; the onnx runtime takes {', '.join(ELEMENT_TYPES)}"
                )
        self._batched = settings.batching.max_rows > 0
        self.empty: Empty = new
        self._engine = Engine(settings.device, settings.threads)
        file = read(settings.path)
        onnx_signature.check(settings, file.graph.graph)
        self.inputs, self.outputs = specs(settings.inputs), specs(settings.outputs)
        self._file: OnnxFile | None = file
        self._graph = Graph(file.outline, file.weights)
        self.weight_bytes = sum(values.nbytes for values in file.weights.values())
        self._outputs = [spec.name for spec in self.outputs]
        self._plain = self._engine.session(file.graph, file.weights, self._engine.options())
        self._instrumented = self._plain
        self._observers: Mapping[str, Observer] = {}
        self._trial: tuple[Sequence[str], Session] | None = None

    def prepare_thread(self) -> None:
        """Nothing: sessions have threads of their own."""

    def prepare_instance(self) -> None:
        """Nothing either: a session may run on several threads at once."""

    def example(self, rows: int, length: int = UNKNOWN_SIZE) -> dict[str, Tensor]:
        return example(self.inputs, rows, length, batched=self._batched)

    def tap_points(self) -> list[TapPoint]:
        return tap_points(self._graph)

    def activation_shapes(self, names: Sequence[str], batch: Mapping[str, Tensor]) -> Shapes:
        if self._trial is None or self._trial[0] != names:
            self._trial = names, shapes(self._engine, self._loaded(), names)
        with self._engine.running():
            found = self._trial[1].run(batch, [shape_of(position) for position in range(len(names))])
            sizes = [tuple(shape.tolist()) for shape in found]
        return {name: shape for name, shape in zip(names, sizes, strict=True) if shape}

    def activation_formats(self, names: Sequence[str]) -> Formats:
        return {name: found for name in names if (found := self._graph.number_format(name))}

    def instrument(self, observers: Mapping[str, Observer]) -> None:
        self._trial = None
        self._plain, self._instrumented = variants(self._engine, self._loaded(), self._graph, list(observers))
        self._observers = observers
        self._file = None
        return_freed_memory()

    def _loaded(self) -> OnnxFile:
        if self._file is None:
            raise ModelError("the model is instrumented already")
        return self._file

    def activations(self, name: str, batch: Mapping[str, Tensor]) -> list[torch.Tensor]:
        if self._engine.device.type != "cpu":
            raise ModelError(
                "inputs are run again on a CPU only: on a GPU that would take memory that requests may need"
            )
        (found,) = self._instrumented.run(batch, [name])
        return [found.to(torch.float32, copy=True)]

    def plain(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with self._engine.running():
            return self._named(self._plain.run(batch, self._outputs))

    def instrumented(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with self._engine.running():
            found = self._instrumented.run(batch, [*self._outputs, *self._observers])
            taps = found[len(self._outputs) :]
            for observer, activation in zip(self._observers.values(), taps, strict=True):
                observer.fold(activation)
            return self._named(found[: len(self._outputs)])

    def _named(self, found: Sequence[torch.Tensor]) -> dict[str, Tensor]:
        return {
            spec.name: _tensor(spec.datatype, values)
            for spec, values in zip(self.outputs, found, strict=True)
        }


def _tensor(datatype: str, values: torch.Tensor) -> Tensor:
    """DLPack has BOOL as bytes, and numpy BF16 as 16 bits."""
    if datatype == "BOOL":
        values = values.view(torch.bool)
    elif datatype == "BF16":
        values = values.view(torch.uint16)
    return Tensor(datatype, values.cpu().numpy())
