"""Sessions of ONNX Runtime: how they are made, and how tensors pass in and out of them without a copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto
from onnxruntime.capi import onnxruntime_pybind11_state as state
from torch.utils.dlpack import from_dlpack

from sidecar.errors import ModelError
from sidecar.runtime.onnx_external import ELEMENT_TYPES, Array
from sidecar.types import Tensor

FAULTS: tuple[type[Exception], ...] = (
    state.EngineError,
    state.EPFail,
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NoSuchFile,
    state.NotImplemented,
    state.RuntimeException,
)
"""What ONNX Runtime raises; each derives from Exception alone."""

_ERRORS_ONLY = 3


class Engine:
    """Where and on how many threads sessions run.

    device: `cpu`, `cuda` or `cuda:1`. threads: of each session, 0 for as many as there are cores.
    Raises ModelError for a device that ONNX Runtime cannot use here.
    """

    def __init__(self, device: str, threads: int) -> None:
        try:
            self.device = torch.device(device)
        except RuntimeError as error:
            raise ModelError(f"device {device} cannot be used: {error}") from error
        self._threads = threads
        self._stream: torch.cuda.Stream | None = None
        self._providers: list[Any] = ["CPUExecutionProvider"]
        if self.device.type == "cuda":
            self._use_cuda()
        elif self.device.type != "cpu":
            raise ModelError(f"device {device} cannot be used: the onnx runtime takes cpu and cuda")

    def _use_cuda(self) -> None:
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise ModelError(
                f"device {self.device} cannot be used: it needs pip install 'activation-sidecar[gpu]', and no "
                "onnxruntime beside it"
            )
        if not torch.cuda.is_available():
            raise ModelError(f"device {self.device} cannot be used: torch finds no CUDA")
        self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        options = {
            "device_id": str(self.device.index or 0),
            # One stream for the model and for what observes it, so memory that ONNX Runtime takes back is no
            # longer read by then.
            "user_compute_stream": str(self._stream.cuda_stream),
        }
        self._providers.insert(0, ("CUDAExecutionProvider", options))

    def options(self, *, optimise: bool = True) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # Threads that spin between two runs take the cores from the event loop, the drain and the other session.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not optimise:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return options

    def session(self, graph: ModelProto, weights: Mapping[str, Array], options: Any) -> Session:
        """Of a graph whose weights are given here. Raises ModelError."""
        declared = [tensor for tensor in graph.graph.initializer if tensor.name in weights]
        values = [_value(tensor.data_type, weights[tensor.name]) for tensor in declared]
        options.add_external_initializers([tensor.name for tensor in declared], values)
        return self._session(graph.SerializeToString(), options, values)

    def open(self, path: Path) -> Session:
        """Of an optimised graph, as it is. Raises ModelError."""
        return self._session(str(path), self.options(optimise=False), [])

    def _session(self, model: bytes | str, options: Any, held: Sequence[Any]) -> Session:
        try:
            session = onnxruntime.InferenceSession(model, options, providers=self._providers)
        except FAULTS as error:
            raise ModelError(f"ONNX Runtime cannot load the model: {error}") from error
        if len(session.get_providers()) < len(self._providers):
            raise ModelError(f"device {self.device} cannot be used: ONNX Runtime fell back to the CPU")
        return Session(session, self.device, held)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around a run and whatever reads its outputs."""
        if self._stream is None:
            yield
            return
        before = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(before)
        with torch.cuda.stream(self._stream):
            yield
        before.wait_stream(self._stream)


class Session:
    """A loaded graph. held: the values of its weights, which it refers to and does not own."""

    def __init__(self, session: Any, device: torch.device, held: Sequence[Any]) -> None:
        self._session = session
        self._device = device
        self._held = held

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> list[torch.Tensor]:
        """The named outputs, on the session's device, in ONNX Runtime's own memory. Raises RuntimeError."""
        binding = self._session.io_binding()
        try:
            for name, tensor in inputs.items():
                binding.bind_ortvalue_input(name, _value(ELEMENT_TYPES[tensor.datatype], tensor.array))
            # A tap may be on an output of the model, and a name can be bound once.
            names = list(dict.fromkeys(outputs))
            for name in names:
                binding.bind_output(name, self._device.type, self._device.index or 0)
            self._session.run_with_iobinding(binding)
        except FAULTS as error:
            raise RuntimeError(str(error)) from error
        # Not the list of get_outputs(): its members have no DLPack.
        values = binding.get_outputs_as_ortvaluevector()
        found = {name: from_dlpack(values[position]) for position, name in enumerate(names)}
        return [found[name] for name in outputs]


def _value(element_type: int, array: Array) -> Any:
    """Over the memory of `array` where that is contiguous."""
    contiguous = np.ascontiguousarray(array).reshape(array.shape)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(contiguous, element_type)
