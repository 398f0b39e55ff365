"""What a scrape costs: how long it takes at 64 taps, and what 50 scrapers do to the latency of requests.

The server is this process. One client that waits for each reply, and the scrapers, are processes of their own.
Rounds with and without scrapers alternate, so that whatever else the machine does falls on both alike.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sidecar import settings
from sidecar.app import Sidecar

LAYERS, WIDTH = 64, 64
SCRAPERS, ROUNDS, ROUND_SECONDS = 50, 8, 3.0
ACCEPT = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"


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
        "capture": {"sample_rate": 1.0},
        "store": {"path": ""},
    }
    return settings.resolve(tree, {}, base=Path())


def send(port: int, rounds: int) -> None:
    """A client's process: a line on stdin begins a round, a JSON list of latencies in seconds answers it."""
    import grpc

    from sidecar._pb import open_inference_pb2 as pb
    from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub

    message = pb.ModelInferRequest(model_name="stack")
    message.inputs.add(name="x", datatype="FP32", shape=[1, WIDTH])
    message.raw_input_contents.append(bytes(4 * WIDTH))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        for _ in range(rounds):
            sys.stdin.readline()
            taken = []
            end = time.perf_counter() + ROUND_SECONDS
            while (started := time.perf_counter()) < end:
                stub.ModelInfer(message)
                taken.append(time.perf_counter() - started)
            print(json.dumps(taken), flush=True)


async def scrape(port: int) -> None:
    """The scrapers' process: each asks once a second, spread evenly, until the process is ended."""
    import httpx

    url = f"http://127.0.0.1:{port}/metrics"
    async with httpx.AsyncClient(trust_env=False, headers={"accept": ACCEPT}) as http:

        async def one(number: int) -> None:
            await asyncio.sleep(number / SCRAPERS)
            while True:
                (await http.get(url)).raise_for_status()
                await asyncio.sleep(1.0)

        await asyncio.gather(*map(one, range(SCRAPERS)))


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
    """Milliseconds of scrapes that each find a new state, and the bytes of one."""
    import httpx

    taken, sizes = [], []
    with httpx.Client(trust_env=False, headers={"accept": ACCEPT}) as http:
        for _ in range(10):
            time.sleep(1.2)
            started = time.perf_counter()
            reply = http.get(f"http://127.0.0.1:{port}/metrics")
            taken.append((time.perf_counter() - started) * 1000)
            sizes.append(int(reply.headers["content-length"]))
    return {"median_ms": statistics.median(taken), "max_ms": max(taken), "bytes": statistics.median(sizes)}


def _p(latencies: list[float], share: float) -> float:
    return sorted(latencies)[int(share * (len(latencies) - 1))] * 1000


def _measure(grpc_port: int, http_port: int) -> dict[str, Any]:
    client = _process("client", grpc_port, 1 + 2 * ROUNDS)
    found: dict[str, list[float]] = {"without": [], "with": []}
    ratios = []
    try:
        _round(client)
        alone = _alone(http_port)
        for _ in range(ROUNDS):
            without = _round(client)
            scrapers = _process("scrapers", http_port)
            try:
                time.sleep(1.5)
                beside = _round(client)
            finally:
                scrapers.terminate()
                scrapers.wait()
            found["without"] += without
            found["with"] += beside
            ratios.append(_p(beside, 0.99) / _p(without, 0.99))
    finally:
        client.terminate()
        client.wait()
    latency = {name: {f"p{q}_ms": _p(some, q / 100) for q in (50, 99)} for name, some in found.items()}
    print(f"a scrape of {LAYERS} taps: {alone['median_ms']:.1f} ms, at most {alone['max_ms']:.1f} ms")
    for name, values in latency.items():
        print(
            f"requests {name} {SCRAPERS} scrapers: p50 {values['p50_ms']:.2f} ms, p99 {values['p99_ms']:.2f} ms"
        )
    print(f"ratio of p99, median of {ROUNDS} rounds: {statistics.median(ratios):.3f}")
    return {
        "scrape": alone,
        "latency": latency,
        "p99_ratios": ratios,
        "median_p99_ratio": statistics.median(ratios),
    }


def run() -> dict[str, Any]:
    async def serve() -> dict[str, Any]:
        sidecar = Sidecar(configured(), time.time)
        await sidecar.start()
        try:
            return await asyncio.to_thread(_measure, sidecar.grpc_port, sidecar.http_port)
        finally:
            await sidecar.stop()

    return asyncio.run(serve())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["client", port, rounds]:
            send(int(port), int(rounds))
        case ["scrapers", port]:
            asyncio.run(scrape(int(port)))
