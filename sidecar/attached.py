"""The same taps in somebody else's server: its model is observed where it runs, and metrics come out of its process."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from prometheus_client import CollectorRegistry
from torch import nn

from sidecar.console.access import Access, names_us
from sidecar.console.http import Standing, application
from sidecar.console.server import HttpServer
from sidecar.errors import ConfigError, ModelError
from sidecar.export.activations import ActivationCollector
from sidecar.export.exposition import Exposition
from sidecar.export.gpu import GpuMemory
from sidecar.model import STOP_SECONDS, Model
from sidecar.recall import Memory
from sidecar.runtime.attached import AttachedRuntime
from sidecar.runtime.memory import gpu_memory
from sidecar.runtime.modules import first_tensor
from sidecar.server import tls
from sidecar.server.security import Role, Tokens
from sidecar.settings import ModelSettings, Settings
from sidecar.types import Clock, InferRequest


class Attached:
    """Watches `module` from the moment it is made until `close`; also a context manager.

    Every call of the module is a batch, and every row of it a request; without a batch dimension the call is one. Of
    calls that overlap in time, one is observed. port: of metrics, health, status, the API and the page.

    Raises ConfigError or BaselineError for wrong settings, with no hook left behind. A model that fails its self-check
    runs as before and is not observed: `/readyz` and the log say why.
    """

    def __init__(self, module: nn.Module, settings: Settings, name: str | None, clock: Clock) -> None:
        chosen = _choose(settings, name)
        self._runtime = AttachedRuntime(chosen, module)
        self._max_rows = chosen.batching.max_rows
        self._numbers = itertools.count()
        self._busy = threading.Lock()
        self._counting = threading.Lock()
        self._running = threading.local()
        with ExitStack() as stack:
            stack.callback(self._runtime.remove)
            self._model = Model(chosen, settings, clock, self._runtime)
            watched, window = [self._model.watched()], settings.drift.window_seconds
            memory = Memory(settings, watched, clock)
            memory.remember(watched[0])
            registry = CollectorRegistry()
            memory.register(registry)
            registry.register(ActivationCollector(watched, window, settings.export.max_series))
            registry.register(GpuMemory(gpu_memory))
            tokens, certificates = Tokens(settings.server), tls.certificates(settings.server)
            console = application(
                Exposition(registry, settings.capture.drain_seconds),
                Standing(watched),
                Access(
                    admits=lambda authorization: tokens.role(authorization) is not Role.NOBODY,
                    sees_inputs=lambda authorization: tokens.role(authorization) is Role.ADMIN,
                    names_us=names_us(settings.server),
                ),
                memory.routes(),
            )
            http = HttpServer(console, settings.server, certificates.context() if certificates else None)
            self.port = http.start()
            stack.callback(http.stop, STOP_SECONDS)
            memory.start()
            stack.callback(memory.stop, STOP_SECONDS)
            self._watch(module, stack)
            self._stack = stack.pop_all()

    def _watch(self, module: nn.Module, stack: ExitStack) -> None:
        self._model.start()
        observation = self._model.observation
        if observation is None:
            self._runtime.remove()
            return
        stack.callback(observation.timeline.close)
        stack.callback(observation.stop, STOP_SECONDS)
        self._recorder = observation.recorder
        self._tells_outputs = self._recorder.keeps_outputs and not self._model.settings.device.startswith(
            "cuda"
        )
        shield = self._recorder.guard.shield
        before: Callable[..., None] = shield("sampling", self._before, None)
        after: Callable[..., None] = shield("sampling", self._after, None)
        handle = module.register_forward_hook(after, always_call=True)
        stack.callback(handle.remove)
        stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)

    def _before(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        running = self._running.__dict__.setdefault("batches", [])
        running.append((time.perf_counter(), None))
        requests = self._requests(args, kwargs)
        if not self._busy.acquire(blocking=False):
            return
        if self._recorder.open(requests):
            watched = ExitStack()
            watched.callback(self._busy.release)
            watched.callback(self._recorder.close)
            watched.enter_context(self._runtime.watched())
            running[-1] = (running[-1][0], watched)
        else:
            self._busy.release()

    def _after(self, _module: nn.Module, _args: object, output: object) -> None:
        started, watched = self._running.batches.pop()
        with self._counting:
            self._model.executor.seconds += time.perf_counter() - started
        if watched:
            with watched:
                # The call that raised has none, and for those on a GPU the server would have to wait.
                if output is not None and self._tells_outputs:
                    self._recorder.answered(self._runtime.named(output))

    def _requests(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[InferRequest]:
        x = first_tensor((args, kwargs))
        rows = x.shape[0] if self._max_rows and x is not None and x.dim() else 1
        if rows > max(self._max_rows, 1):
            raise ModelError(f"a batch of {rows} rows is not observed: batching.max_rows is {self._max_rows}")
        return [InferRequest(str(next(self._numbers)), {}, 1) for _ in range(rows)]

    def close(self) -> None:
        """Take all hooks out, drain once more, close the port."""
        self._stack.close()
        self._model.servable.ready = False

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _choose(settings: Settings, name: str | None) -> ModelSettings:
    for model in settings.models:
        if name in (None, model.name):
            return model
    known = ", ".join(model.name for model in settings.models)
    raise ConfigError(f"no model {name!r} is configured; there are {known}")
