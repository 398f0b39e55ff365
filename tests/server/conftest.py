"""Stand-ins for what the server meets: a model that echoes, an observer that remembers."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecar.errors import Caught
from sidecar.server.server import Server
from sidecar.settings import BatchingSettings, ServerSettings
from sidecar.types import (
    DATATYPES,
    Batch,
    Batches,
    Cost,
    InferReply,
    InferRequest,
    Lineup,
    Repository,
    Servable,
    Tensor,
    TensorSpec,
    VersionPolicy,
)

Execute = Callable[[Sequence[InferRequest]], list[InferReply]]


class Gate(threading.Event):
    """An Event for threads, that a coroutine can wait for too."""

    def wait(self, timeout: float | None = None) -> Any:
        """Awaitable, and true when it was set."""
        return asyncio.to_thread(self.block)

    def block(self) -> None:
        assert super().wait(60)


class Ledger:
    """A ServingObserver that writes everything down."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.started: list[tuple[str, str]] = []
        self.finished: list[tuple[str, str, str]] = []
        self.seconds: list[float] = []
        self.reasons: list[str] = []
        self.costs: list[Cost | None] = []
        self.batches: list[int] = []
        self.queued: list[float] = []
        self.waiting: list[int] = []
        self.states: list[tuple[str, str, str]] = []
        self.nonfinite = 0
        self.answered = Gate()

    @property
    def codes(self) -> Counter[str]:
        return Counter(code for _, _, code in self.finished)

    def call_ended(self, method: str, code: str) -> None:
        self.calls[method.rpartition("/")[2], code] += 1

    def request_started(self, model: str, version: str) -> None:
        self.started.append((model, version))

    def request_finished(self, model: str, version: str, code: str, seconds: float, reason: str) -> None:
        self.finished.append((model, version, code))
        self.seconds.append(seconds)
        self.reasons.append(reason)
        self.answered.set()

    def batch_finished(
        self, model: str, version: str, rows: int, queued: Sequence[float], cost: Cost | None
    ) -> None:
        self.batches.append(rows)
        self.costs.append(cost)
        self.queued.extend(queued)

    def queue_length(self, model: str, version: str, requests: int) -> None:
        self.waiting.append(requests)

    def model_state(self, model: str, version: str, state: str) -> None:
        self.states.append((model, version, state))

    def input_nonfinite(self, model: str, version: str, values: int) -> None:
        self.nonfinite += values


COST = Cost(assembly=1e-6, compute=2e-6, response=3e-6, input_bytes=8, output_bytes=4)


class Model:
    """Echoes inputs as outputs of the same name, and keeps the batches it saw.

    gate: while not set, a batch that has started does not end.
    failure: raised instead of an answer.
    """

    def __init__(self) -> None:
        self.batches: list[list[InferRequest]] = []
        self.gate = Gate()
        self.gate.set()
        self.entered = Gate()
        self.failure: Exception | None = None

    def execute(self, requests: Sequence[InferRequest]) -> list[InferReply]:
        self.batches.append(list(requests))
        self.entered.set()
        self.gate.block()
        if self.failure is not None:
            raise self.failure
        return [InferReply(dict(request.inputs), COST) for request in requests]


def running(execute: Execute) -> Callable[[Batches], None]:
    """`start` of a Servable whose thread gives each batch to `execute`."""

    def run(batch: Batch) -> bool:
        with Caught() as caught:
            replies = execute(batch.requests)
        if caught.error is None:
            batch.answer(replies)
        else:
            batch.fail(caught.error)
        return True

    return lambda batches: threading.Thread(target=batches.serve, args=(run,), daemon=True).start()


def servable(
    execute: Execute,
    specs: Sequence[TensorSpec],
    *,
    max_rows: int = 8,
    version: str = "1",
    name: str = "echo",
) -> Servable:
    both = tuple(specs)
    return Servable(name, version, "python", both, both, max_rows, running(execute), ready=True)


def every_datatype() -> list[TensorSpec]:
    return [TensorSpec(datatype.lower(), datatype, (-1, 3)) for datatype in DATATYPES]


def request(number: int = 0, rows: int = 1, *, width: int = 2, deadline: float | None = None) -> InferRequest:
    """A request whose values no request of another number has; its id is the number."""
    values = np.arange(rows * width, dtype=np.float64).reshape(rows, width) + 1e6 * number
    return InferRequest(str(number), {"x": Tensor("FP64", values)}, rows, deadline=deadline)


class Shelf:
    """A Repository of echoing models, which lets a test hold a load or let it fail.

    gate: while not set, a load that has started does not end. failure: raised by the next loads.
    """

    def __init__(self, specs: Sequence[TensorSpec], **versions: Sequence[str]) -> None:
        self._specs, self._versions = specs, versions
        self.models: list[tuple[str, Model]] = []
        self.released: list[Servable] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.failure: Exception | None = None
        self.refused: dict[tuple[str, str], str] = {}
        self.canaries: dict[str, float] = {}
        self.policy = VersionPolicy()

    async def versions(self) -> dict[str, Sequence[str]]:
        return self._versions

    async def read(self, model: str) -> Lineup:
        return Lineup(tuple(self._versions[model]), frozenset(self.canaries), self.policy)

    async def load(self, model: str, version: str) -> Servable:
        self.entered.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.models.append((version, Model()))
        loaded = servable(self.models[-1][1].execute, self._specs, name=model, version=version)
        loaded.ready = False
        loaded.canary = self.canaries.get(version)
        return loaded

    def serve(self, servable: Servable) -> None:
        servable.ready = True

    async def release(self, servable: Servable) -> None:
        self.released.append(servable)


@pytest.fixture
def make_shelf() -> type[Shelf]:
    return Shelf


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def make_servable() -> Callable[..., Servable]:
    return servable


@pytest.fixture
def make_request() -> Callable[..., InferRequest]:
    return request


@pytest.fixture
def all_specs() -> list[TensorSpec]:
    return every_datatype()


UNDELAYED = BatchingSettings(max_delay_ms=0)


@pytest.fixture(params=["completion queue", "grpc.aio"])
def front_end(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both servers that may stand at the port, one after the other."""
    name: str = request.param
    monkeypatch.setattr("sidecar.server.listener.tested", lambda: name != "grpc.aio")
    return name


Serve = Callable[..., AbstractAsyncContextManager[str]]


@pytest.fixture
def serve(ledger: Ledger, front_end: str) -> Serve:
    """`async with serve(servables, **server_settings) as address:` a real server on a free port."""

    @asynccontextmanager
    async def serve(
        *servables: Servable,
        repository: Repository | None = None,
        batching: BatchingSettings = UNDELAYED,
        **settings: Any,
    ) -> AsyncIterator[str]:
        known = {(one.name, one.version) for one in servables}
        if repository:
            known |= {(name, one) for name, ones in (await repository.versions()).items() for one in ones}
        server_settings = ServerSettings(**{"grpc_port": 0, "grace_seconds": 5.0, **settings})
        server = Server(
            server_settings,
            servables,
            dict.fromkeys(known, batching),
            ledger,
            repository,
            lambda: 1_700_000_000.5,
        )
        port = await server.start()
        try:
            host = server_settings.grpc_host
            yield host if host.startswith("unix:") else f"127.0.0.1:{port}"
        finally:
            await server.stop()

    return serve


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    return path


@pytest.fixture
def fp32_spec() -> TensorSpec:
    return TensorSpec("fp32", "FP32", (-1, 3))
