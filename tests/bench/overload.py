"""`make bench-overload`: three times what the model can take, requests that nobody waits for, and restarts under load.

The model of `peers/device.py` takes time and no processor, so what is measured is the server's own part.
"""

import asyncio
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb import open_inference_pb2_grpc as pb_grpc
from sidecar.server import core
from tests.bench.peers.device import WIDTH
from tests.bench.servers import Server, Start, free_port, running

ROWS, QUEUE = 8, 64
CAPACITY_SECONDS, OVERLOAD_SECONDS, TIMES = 10.0, 60.0, 3.0
UNWANTED, AT_ONCE = 10_000, 1_000
RESTARTS, CLIENTS = 100, 16
TICK = 0.005
FIRST = 1_000
"""The lowest number of an unwanted request: trial runs of the model have smaller ones."""

CONFIG = """\
[[models]]
name = "device"
source = "tests.bench.peers.device:Device"
taps = ["layer"]
inputs = [{{ name = "x", datatype = "FP32", shape = [-1, {width}] }}]
outputs = [{{ name = "y", datatype = "FP32", shape = [-1, {width}] }}]
batching = {{ max_rows = {rows}, queue_requests = {queue} }}

[server]
grpc_port = {port}
http_port = 0
"""


def config(port: int, queue: int) -> str:
    return CONFIG.format(width=WIDTH, rows=ROWS, queue=queue, port=port)


def device(queue: int) -> Start:
    """The sidecar with the model that takes time; `log.device` in its folder has what ran."""

    def start(folder: Path, port: int) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        (folder / "sidecar.toml").write_text(config(port, queue))
        command = [sys.executable, "-m", "sidecar.cli", "serve", "--config", folder / "sidecar.toml"]
        return command, {"DEVICE_LOG": str(folder / "ran")}

    return start


def message(number: float) -> pb.ModelInferRequest:
    x = np.full((1, WIDTH), number, np.float32)
    request = pb.ModelInferRequest(model_name="device", raw_input_contents=[x.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    return request


def resident(pid: int) -> float:
    """MiB of memory that the process holds (VmRSS of proc(5))."""
    (line,) = [one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


@dataclass
class Outcomes:
    """How often each status came, and the seconds that each request of it took."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def codes(self) -> Counter[str]:
        return Counter({code: len(each) for code, each in self.seconds.items()})

    async def one(self, call: Callable[[], Any]) -> str:
        started = time.perf_counter()
        code = await status(call())
        self.seconds.setdefault(code, []).append(time.perf_counter() - started)
        return code

    def milliseconds(self, code: str, quantile: float) -> float:
        return 1000 * float(np.quantile(self.seconds.get(code, [float("nan")]), quantile))


async def status(call: Any) -> str:
    with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        await call
    code = await call.code()
    return str(code.name)


async def overload(server: Server) -> dict[str, Any]:
    """Capacity with as many in flight as it takes, and then TIMES as many requests a second, answered or not."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)

        def call() -> Any:
            return stub.ModelInfer(message(1), timeout=10)

        capacity = await closed_loop(call, CAPACITY_SECONDS, in_flight=4 * ROWS)
        before, peak = resident(server.pid), 0.0
        outcomes, waiting = Outcomes(), set[asyncio.Task[str]]()
        sent, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < OVERLOAD_SECONDS:
            for _ in range(int(elapsed * TIMES * capacity) - sent):
                task = asyncio.create_task(outcomes.one(call))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
                sent += 1
            peak = max(peak, resident(server.pid))
            await asyncio.sleep(TICK)
        await asyncio.gather(*waiting)
        recovered = await closed_loop(call, CAPACITY_SECONDS, in_flight=4 * ROWS)
    answered = outcomes.codes["OK"]
    return {
        "capacity_per_second": capacity,
        "offered_per_second": sent / OVERLOAD_SECONDS,
        "offered_over_capacity": sent / OVERLOAD_SECONDS / capacity,
        "goodput_per_second": answered / OVERLOAD_SECONDS,
        "goodput_over_capacity": answered / OVERLOAD_SECONDS / capacity,
        "codes": outcomes.codes,
        "lost": sent - outcomes.codes.total(),
        "ok_p50_ms": outcomes.milliseconds("OK", 0.5),
        "ok_p99_ms": outcomes.milliseconds("OK", 0.99),
        "refused_p50_ms": outcomes.milliseconds("RESOURCE_EXHAUSTED", 0.5),
        "refused_p99_ms": outcomes.milliseconds("RESOURCE_EXHAUSTED", 0.99),
        "memory_growth_mib": peak - before,
        "capacity_afterwards_per_second": recovered,
    }


async def closed_loop(call: Callable[[], Any], seconds: float, in_flight: int) -> float:
    """Requests a second that are answered with `in_flight` at a time."""
    end, outcomes = time.perf_counter() + seconds, Outcomes()

    async def client() -> None:
        while time.perf_counter() < end:
            await outcomes.one(call)

    await asyncio.gather(*(client() for _ in range(in_flight)))
    return outcomes.codes["OK"] / seconds


async def unwanted(server: Server, ran: Path, kind: str) -> dict[str, Any]:
    """UNWANTED requests while the model is busy, whose deadline passes or which are cancelled before it is free."""
    codes: Counter[str] = Counter()
    memory = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        for first in range(0, UNWANTED, AT_ONCE):
            busy = stub.ModelInfer(message(-2.0), timeout=60)  # seconds
            while "-2" not in ran.read_text().splitlines()[-1:]:
                await asyncio.sleep(TICK)
            timeout = 0.25 if kind == "expired" else None
            calls = [
                stub.ModelInfer(message(FIRST + first + number), timeout=timeout) for number in range(AT_ONCE)
            ]
            ends = asyncio.gather(*map(status, calls))
            if kind == "cancelled":
                # Those that came by now wait in the queue, the rest are still on their way: both must end.
                await asyncio.sleep(0.25)
                for call in calls:
                    call.cancel()
            codes.update(await ends)
            in_time = not busy.done()
            await busy
            if not in_time:
                raise RuntimeError("the machine is too slow: the model was free before all had ended")
            if await status(stub.ModelInfer(message(0), timeout=10)) != "OK":
                raise RuntimeError("the server does not answer any more")
            memory.append(resident(server.pid))
    executed = [int(value) for line in ran.read_text().splitlines() for value in line.split()]
    return {
        "codes": codes,
        "executed": sum(value >= FIRST for value in executed),
        # What a process takes once it keeps; a leak would go on growing.
        "memory_growth_mib": max(memory[len(memory) // 2 :]) - max(memory[: len(memory) // 2]),
        "memory_mib": [round(one, 1) for one in memory],
        "threads_and_files": [len(os.listdir(f"/proc/{server.pid}/{kind}")) for kind in ("task", "fd")],
    }


def replica(path: str) -> None:
    from sidecar.cli import serve

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    serve(Path(path))


class Replicas:
    """Sidecars on ports of their own; `ready` are those whose health service says so, as their client hears it."""

    def __init__(self, folder: Path) -> None:
        self.ready: list[pb_grpc.GRPCInferenceServiceStub] = []
        self.exits: Counter[int | None] = Counter()
        self._folder = folder
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(
            ["sidecar.cli", "sidecar.app", "uvloop", "tests.bench.peers.device"]
        )

    async def start(self) -> Callable[[], Awaitable[None]]:
        """Another one, once it is ready. Returns what ends it by SIGTERM and waits until it is gone."""
        port = free_port()
        path = self._folder / f"{port}.toml"
        path.write_text(config(port, QUEUE))
        process = self._processes.Process(target=replica, args=(str(path),), daemon=True)
        process.start()
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        stub, up = pb_grpc.GRPCInferenceServiceStub(channel), asyncio.Event()
        follower = asyncio.create_task(self._follow(channel, stub, up))
        await up.wait()

        async def stop() -> None:
            os.kill(process.pid, signal.SIGTERM)
            await asyncio.to_thread(process.join, 60)
            self.exits[process.exitcode] += 1
            follower.cancel()
            await channel.close()

        return stop

    async def _follow(self, channel: Any, stub: pb_grpc.GRPCInferenceServiceStub, up: asyncio.Event) -> None:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), wait_for_ready=True
        )
        try:
            async for reply in watch:
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    self.ready.append(stub)
                    up.set()
                elif stub in self.ready:
                    self.ready.remove(stub)
        except grpc.aio.AioRpcError:
            if stub in self.ready:
                self.ready.remove(stub)


async def restarts(folder: Path) -> dict[str, Any]:
    """RESTARTS times a new replica comes and the oldest of two gets SIGTERM, with CLIENTS requests in flight."""
    replicas, outcomes, over = Replicas(folder), Outcomes(), asyncio.Event()
    stops = [await replicas.start(), await replicas.start()]

    async def client(number: int) -> None:
        while not over.is_set():
            stub = replicas.ready[number % len(replicas.ready)]
            await outcomes.one(lambda stub=stub: stub.ModelInfer(message(1), timeout=30))
            number += 1

    clients = asyncio.gather(*map(client, range(CLIENTS)))
    started, stopping = time.perf_counter(), []
    for _ in range(RESTARTS):
        stops.append(await replicas.start())
        before = time.perf_counter()
        await stops.pop(0)()
        stopping.append(time.perf_counter() - before)
    seconds = time.perf_counter() - started
    over.set()
    await clients
    for stop in stops:
        await stop()
    return {
        "sigterms": RESTARTS,
        "codes": outcomes.codes,
        "failed": outcomes.codes.total() - outcomes.codes["OK"],
        "requests_per_second": outcomes.codes.total() / seconds,
        "ok_p99_ms": outcomes.milliseconds("OK", 0.99),
        "exit_codes": dict(replicas.exits),
        "stop_seconds": float(np.median(stopping)),
        "stop_seconds_worst": max(stopping),
    }


@contextmanager
def served(queue: int) -> Iterator[tuple[Server, Path]]:
    with TemporaryDirectory() as folder, running(device(queue), Path(folder)) as server:
        yield server, Path(folder, "ran")


def run() -> dict[str, Any]:
    with served(QUEUE) as (server, _):
        figures: dict[str, Any] = {"overload": asyncio.run(overload(server))}
    show("overload", figures["overload"])
    for kind in ("expired", "cancelled"):
        with served(2 * AT_ONCE) as (server, ran):
            figures[kind] = asyncio.run(unwanted(server, ran, kind))
        show(kind, figures[kind])
    with TemporaryDirectory() as folder:
        os.environ["DEVICE_LOG"] = os.devnull
        # The replicas are forked from a process that has imported grpc.
        core.set_up(os.environ)
        figures["restarts"] = asyncio.run(restarts(Path(folder)))
    show("restarts", figures["restarts"])
    return figures


def show(name: str, figures: Mapping[str, Any]) -> None:
    print(f"{name}:")
    for key, value in figures.items():
        text = (
            f"{value:,.2f}"
            if isinstance(value, float)
            else dict(value)
            if isinstance(value, Counter)
            else value
        )
        print(f"  {key:<34}{text}", flush=True)
