"""What open pages do to the latency of requests.

The server is this process. One client that waits for each reply, and one that asks what open pages ask, are processes
of their own. Rounds without pages, with one and with five alternate, so that whatever else the machine does falls on
all alike; a round has its own p99, and what is told are medians and quartiles over rounds.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sidecar.app import Sidecar
from tests.bench import scrape

PAGES = (0, 1, 5)
ROUNDS, ROUND_SECONDS = 8, 10.0
MATRICES = ("mean", "rms", "kurtosis", "hoyer", "near_zero_share", "absmax")
LAYER = "layer=5"
ASKED = (
    "taps?",
    f"layer?{LAYER}&spikes=40",
    f"histogram?{LAYER}&per_octave=4",
    f"neurons?{LAYER}&filter=all&order=absmax&limit=20",
    *(f"matrix?statistic={one}&columns=120&axis=time" for one in MATRICES),
)
"""Of an open layer view, once in ROUND_SECONDS; it asks more than all others."""


def send(port: int) -> None:
    """A client's process: a line on stdin begins a round, its p50 and p99 in milliseconds answer it."""
    import grpc

    from sidecar._pb import open_inference_pb2 as pb
    from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub

    message = pb.ModelInferRequest(model_name="stack")
    message.inputs.add(name="x", datatype="FP32", shape=[1, scrape.WIDTH])
    message.raw_input_contents.append(bytes(4 * scrape.WIDTH))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        for _ in sys.stdin:
            taken = []
            end = time.perf_counter() + ROUND_SECONDS
            while (started := time.perf_counter()) < end:
                stub.ModelInfer(message)
                taken.append((time.perf_counter() - started) * 1e3)
            taken.sort()
            print(json.dumps([taken[len(taken) // 2], taken[int(0.99 * (len(taken) - 1))]]), flush=True)


async def view(port: int) -> None:
    """The pages' process: a line on stdin says how many are open for a round; `done` and the answers that came."""
    import httpx

    limits = httpx.Limits(max_connections=6)
    async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=60) as http:

        async def one(delay: float) -> int:
            await asyncio.sleep(delay)
            replies = await asyncio.gather(
                *(http.get(f"http://127.0.0.1:{port}/api/v1/{path}") for path in ASKED)
            )
            return sum(reply.status_code == 200 for reply in replies)

        while line := await asyncio.to_thread(sys.stdin.readline):
            pages = int(line)
            came = await asyncio.gather(
                *(one((number + 0.5) * ROUND_SECONDS / pages) for number in range(pages))
            )
            print(json.dumps(sum(came)), flush=True)


def _process(kind: str, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.bench.viewing", kind, str(port)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _say(process: subprocess.Popen[str], word: object) -> None:
    assert process.stdin
    process.stdin.write(f"{word}\n")
    process.stdin.flush()


def _heard(process: subprocess.Popen[str]) -> Any:
    assert process.stdout
    return json.loads(process.stdout.readline())


def _measure(grpc_port: int, http_port: int) -> dict[str, Any]:
    client, viewer = _process("client", grpc_port), _process("pages", http_port)
    rounds: dict[int, list[list[float]]] = {pages: [] for pages in PAGES}
    answered: dict[int, list[int]] = {pages: [] for pages in PAGES}
    try:
        _say(client, "warm")
        _heard(client)
        for number in range(ROUNDS):
            # Turned round every time, so that none always follows the same other.
            for pages in PAGES if number % 2 else reversed(PAGES):
                _say(viewer, pages)
                _say(client, pages)
                rounds[pages].append(_heard(client))
                answered[pages].append(_heard(viewer))
    finally:
        for process in (client, viewer):
            process.terminate()
            process.wait()
    return {
        str(pages): _told(found, rounds[0]) | {"answers": answered[pages]} for pages, found in rounds.items()
    }


def _told(found: list[list[float]], without: list[list[float]]) -> dict[str, Any]:
    p99 = [one[1] for one in found]
    ratios = [ours[1] / alone[1] for ours, alone in zip(found, without, strict=True)]
    return {
        "p50_ms": statistics.median(one[0] for one in found),
        "p99_ms": statistics.quantiles(p99, n=4),
        "p99_ratio": statistics.quantiles(ratios, n=4),
    }


def beside() -> dict[str, Any]:
    """Open pages -> milliseconds and ratios to the rounds without; quartiles over rounds."""

    async def serve() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            configured = scrape.configured()
            kept = configured.store.model_copy(update={"path": str(Path(folder) / "bench.db")})
            shown = configured.console.model_copy(update={"min_requests": 1})
            sidecar = Sidecar(configured.model_copy(update={"store": kept, "console": shown}), time.time)
            await sidecar.start()
            try:
                return await asyncio.to_thread(_measure, sidecar.grpc_port, sidecar.http_port)
            finally:
                await sidecar.stop()

    found = asyncio.run(serve())
    print(f"requests beside open pages, {ROUNDS} rounds of {ROUND_SECONDS:g} s each, quartiles over rounds:")
    for pages, one in found.items():
        low, middle, high = one["p99_ms"]
        least, ratio, most = one["p99_ratio"]
        print(
            f"  {pages} pages: p50 {one['p50_ms']:.2f} ms, p99 {middle:.2f} ms ({low:.2f} to {high:.2f}), "
            f"p99 over without {ratio:.3f} ({least:.3f} to {most:.3f})"
        )
    return found


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["client", port]:
            send(int(port))
        case ["pages", port]:
            asyncio.run(view(int(port)))
