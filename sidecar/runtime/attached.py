"""A torch model that somebody else's server runs. It is its own instrumented variant, on the thread that is watched."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from threading import get_ident

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from sidecar.errors import ConfigError
from sidecar.runtime.modules import first_tensor
from sidecar.runtime.torch import TorchRuntime
from sidecar.settings import ModelSettings
from sidecar.types import Observer, Tensor


class AttachedRuntime(TorchRuntime):
    """Observers stand in the live model and are let through only within `watched`.

    Raises ConfigError where the settings ask for what only a model of our own can have.
    """

    def __init__(self, settings: ModelSettings, model: nn.Module) -> None:
        if settings.compile:
            raise ConfigError("compile is true; a model that is attached to runs as it is")
        if settings.decoupled:
            raise ConfigError("decoupled is true; a model that is attached to is watched call by call")
        if model.training:
            raise ConfigError("the model is in training mode; call its eval() before attaching")
        here = {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}
        if here - {torch.device(settings.device).type}:
            raise ConfigError(
                f"device is {settings.device!r}, and the model lies on {', '.join(sorted(here))}"
            )
        self._given = model
        self._watched: int | None = None
        self._hooks: list[RemovableHandle] = []
        super().__init__(settings)

    def _load(self, settings: ModelSettings) -> nn.Module:
        return self._given

    def prepare_thread(self) -> None:
        """Nothing: the threads are those of the server."""

    def instrument(self, observers: Mapping[str, Observer]) -> None:
        modules = dict(self._given.named_modules())
        for name, observer in observers.items():
            self._hooks.append(modules[name].register_forward_hook(self._hook(observer.fold)))

    def _hook(self, fold: Callable[[torch.Tensor], None]) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _args: object, output: object) -> None:
            if self._watched == get_ident() and (x := first_tensor(output)) is not None:
                fold(x)

        return hook

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Observe what this thread runs. One thread at a time."""
        self._watched = get_ident()
        try:
            yield
        finally:
            self._watched = None

    def instrumented(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with self.watched():
            return self.plain(batch)

    def remove(self) -> None:
        """Leave the model as it was."""
        while self._hooks:
            self._hooks.pop().remove()
