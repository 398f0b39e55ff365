"""What a scrape costs: how long it takes at 64 taps, and what 50 scrapers do to the latency of requests.

The server is this process. One client that waits for each reply, and the scrapers, are processes of their own.
Rounds without scrapers, with scrapers that ask somebody else for as many bytes, and with scrapers that ask the sidecar
alternate, so that whatever else the machine does falls on all alike. The second kind is there because processes share
cores: what it costs is not the sidecar's doing.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sidecar import settings
from sidecar.app import Sidecar

LAYERS, WIDTH = 64, 64
REFERENCE_REQUESTS = 500
SCRAPERS, ROUNDS, ROUND_SECONDS = 50, 5, 8.0
ROUNDS_TO_FILL = 22
"""As long as the drift window and a pane more."""

KINDS = ("without", "elsewhere", "here")
ACCEPT = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
ASK = f"GET /metrics HTTP/1.1\r\nhost: sidecar\r\naccept: {ACCEPT}\r\naccept-encoding: gzip\r\n\r\n".encode()


class Stack(nn.Module):
    """[batch, 64] -> [batch, 64] through 64 residual blocks, each of which is tapped."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + 0.1 * torch.relu(block(x))
        return x


def build() -> nn.Module:
    return Stack()


def configured() -> settings.Settings:
    tensor = {"datatype": "FP32", "shape": [-1, WIDTH]}
    model = {
        "name": "stack",
        "source": "tests.bench.scrape:build",
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}],
        "taps": [f"blocks.{layer}" for layer in range(LAYERS)],
        "threads": 1,
    }
    tree = {
        "server": {"grpc_port": 0, "http_port": 0},
        "models": [model],
        # A known number of requests in the window, whatever observing them costs on this machine.
        "capture": {"sample_rate": 0.1, "budget": 1.0},
        "drift": {"reference_requests": REFERENCE_REQUESTS},
        "store": {"path": ""},
    }
    return settings.resolve(tree, {}, base=Path())


def send(port: int) -> None:
    """A client's process: a line on stdin begins a round, a JSON list of latencies in seconds answers it."""
    import grpc

    from sidecar._pb import open_inference_pb2 as pb
    from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub

    message = pb.ModelInferRequest(model_name="stack")
    message.inputs.add(name="x", datatype="FP32", shape=[1, WIDTH])
    message.raw_input_contents.append(bytes(4 * WIDTH))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        while sys.stdin.readline():
            taken = []
            end = time.perf_counter() + ROUND_SECONDS
            while (started := time.perf_counter()) < end:
                stub.ModelInfer(message)
                taken.append(time.perf_counter() - started)
            print(json.dumps(taken), flush=True)


async def scrape(port: int) -> None:
    """The scrapers' process: each asks once a second, spread evenly, until the process is ended."""

    async def one(number: int) -> None:
        await asyncio.sleep(number / SCRAPERS)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            writer.write(ASK)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise OSError(head.decode())
            await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
            await asyncio.sleep(1.0)

    await asyncio.gather(*map(one, range(SCRAPERS)))


async def stand_in(size: int) -> None:
    """A process that answers every request with `size` bytes; prints its port."""
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + bytes(size)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(reply)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _process(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.bench.scrape", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _round(client: subprocess.Popen[str]) -> list[float]:
    assert client.stdin
    assert client.stdout
    client.stdin.write("\n")
    client.stdin.flush()
    found: list[float] = json.loads(client.stdout.readline())
    return found


def _alone(port: int) -> dict[str, float]:
    """Scrapes that each find a new state: milliseconds, of the clock and of this process' CPU, and bytes of one."""
    import httpx

    taken, busy, sizes = [], [], []
    with httpx.Client(trust_env=False, headers={"accept": ACCEPT}) as http:
        for _ in range(20):
            time.sleep(1.2)
            started, used = time.perf_counter(), time.process_time()
            reply = http.get(f"http://127.0.0.1:{port}/metrics")
            taken.append((time.perf_counter() - started) * 1000)
            busy.append((time.process_time() - used) * 1000)
            sizes.append(int(reply.headers["content-length"]))
    return {
        "median_ms": statistics.median(taken),
        "max_ms": max(taken),
        "cpu_median_ms": statistics.median(busy),
        "bytes": statistics.median(sizes),
    }


def _p(latencies: list[float], share: float) -> float:
    return sorted(latencies)[int(share * (len(latencies) - 1))] * 1000


def _measure(grpc_port: int, http_port: int, judged: Callable[[], bool]) -> dict[str, Any]:
    client = _process("client", grpc_port)
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    ratios: dict[str, list[float]] = {kind: [] for kind in KINDS[1:]}
    with ExitStack() as stack:
        stack.callback(_end, client)
        rounds = 0
        while rounds < ROUNDS_TO_FILL or not judged():
            _round(client)
            rounds += 1
        alone = _alone(http_port)
        other = _process("stand-in", int(alone["bytes"]))
        stack.callback(_end, other)
        assert other.stdout
        ports = {"elsewhere": int(other.stdout.readline()), "here": http_port}
        for _ in range(ROUNDS):
            base = _p(_beside(None, client, found["without"]), 0.99)
            for kind, port in ports.items():
                ratios[kind].append(_p(_beside(port, client, found[kind]), 0.99) / base)
    latency = {name: {f"p{q}_ms": _p(some, q / 100) for q in (50, 99)} for name, some in found.items()}
    print(
        f"a scrape of {LAYERS} taps: {alone['median_ms']:.1f} ms, at most {alone['max_ms']:.1f} ms, "
        f"CPU {alone['cpu_median_ms']:.1f} ms"
    )
    for name, values in latency.items():
        print(
            f"requests, {SCRAPERS} scrapers {name}: p50 {values['p50_ms']:.2f}, p99 {values['p99_ms']:.2f} ms"
        )
    for kind, each in ratios.items():
        print(
            f"p99, scrapers {kind}, over that without, median of {ROUNDS} rounds: {statistics.median(each):.3f}"
        )
    return {
        "scrape": alone,
        "latency": latency,
        "p99_ratios": ratios,
        "median_p99_ratio": {kind: statistics.median(each) for kind, each in ratios.items()},
    }


def _beside(port: int | None, client: subprocess.Popen[str], found: list[float]) -> list[float]:
    """Latencies of a round beside scrapers of this port, or beside none."""
    scrapers = _process("scrapers", port) if port else None
    try:
        time.sleep(1.5)
        taken = _round(client)
    finally:
        if scrapers:
            _end(scrapers)
    found += taken
    return taken


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait()


def run() -> dict[str, Any]:
    async def serve() -> dict[str, Any]:
        sidecar = Sidecar(configured(), time.time)
        await sidecar.start()
        try:
            judged = sidecar.models[0].watched().monitor
            assert judged
            return await asyncio.to_thread(
                _measure, sidecar.grpc_port, sidecar.http_port, lambda: judged.reference is not None
            )
        finally:
            await sidecar.stop()

    return asyncio.run(serve())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["client", port]:
            send(int(port))
        case ["scrapers", port]:
            asyncio.run(scrape(int(port)))
        case ["stand-in", size]:
            asyncio.run(stand_in(int(size)))
