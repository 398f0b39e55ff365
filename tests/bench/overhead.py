"""What telemetry costs a served model: the demo's, plain and observed at 100%, alternated in one run.

Two servers of their own processes, 32 concurrent clients in this one. The reference is complete before the
first round, so drift is judged all the while.
"""

import asyncio
import contextlib
import json
import os
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sidecar.demo import training
from sidecar.demo.run import CONFIG, WEIGHTS, cache_folder, server
from sidecar.demo.shifts import draws
from sidecar.demo.traffic import CONNECTIONS, MODEL, Traffic

ROUNDS = 8
ROUND_SECONDS = 3.0


class Side:
    """One server and what was measured of it, round by round."""

    def __init__(self, grpc_address: str, http_address: str) -> None:
        self.traffic = Traffic(grpc_address, np.random.default_rng(0))
        self.http = http_address
        self.rates: list[float] = []
        self.p50: list[float] = []
        self.p99: list[float] = []

    def status(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{self.http}/api/v1/status", timeout=5) as reply:
            status: dict[str, Any] = json.loads(reply.read())["models"][0]
            return status

    async def flood(self, draw: Any, seconds: float) -> tuple[float, list[float]]:
        """Answers a second, and the seconds that each took."""
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, stop.set)
        before, started = self.traffic.tally.total_answered, time.perf_counter()
        latencies = await self.traffic.flood(draw, "bench", stop)
        answered = self.traffic.tally.total_answered - before
        return answered / (time.perf_counter() - started), latencies

    async def measure(self, draw: Any) -> None:
        rate, latencies = await self.flood(draw, ROUND_SECONDS)
        self.rates.append(rate)
        self.p50.append(float(np.quantile(latencies, 0.5)) * 1000)
        self.p99.append(float(np.quantile(latencies, 0.99)) * 1000)


@contextlib.asynccontextmanager
async def serving(folder: Path, name: str, capture: str) -> AsyncIterator[Side]:
    config = folder / f"{name}.toml"
    weights = training.weights(cache_folder(os.environ) / WEIGHTS, lambda _: None)
    text = CONFIG.format(model=MODEL, weights=weights, grpc_port=0, http_port=0)
    config.write_text(text.replace("sample_rate = 1.0", capture))
    async with server(config) as (grpc_address, http_address):
        side = Side(grpc_address, http_address)
        try:
            yield side
        finally:
            await side.traffic.close()


async def compare() -> dict[str, Any]:
    data = training.digits()
    draw = draws(data.test_images, data.test_labels)
    with tempfile.TemporaryDirectory() as folder:
        async with (
            serving(Path(folder), "plain", "enabled = false") as plain,
            serving(Path(folder), "observed", "sample_rate = 1.0") as observed,
        ):
            while not (await asyncio.to_thread(observed.status))["reference_ready"]:
                await observed.flood(draw, 1.0)
            await plain.flood(draw, 1.0)
            before = await asyncio.to_thread(observed.status)
            for _ in range(ROUNDS):
                await plain.measure(draw)
                await observed.measure(draw)
            after = await asyncio.to_thread(observed.status)
            failed = plain.traffic.tally.failed + observed.traffic.tally.failed
    telemetry, inference = (after[key] - before[key] for key in ("telemetry_seconds", "inference_seconds"))
    ratio = median(b / a for a, b in zip(plain.rates, observed.rates, strict=True))
    print(f"demo model, {CONNECTIONS} concurrent clients, {ROUNDS} alternated rounds of {ROUND_SECONDS:g} s:")
    for name, side in (("plain", plain), ("observed at 100%", observed)):
        print(
            f"  {name:<18}{median(side.rates):8,.0f} requests/s   p50 {median(side.p50):6.2f} ms"
            f"   p99 {median(side.p99):6.2f} ms"
        )
    print(f"  observed / plain {ratio:.3f} of the requests/s (median of rounds)")
    print(f"  telemetry share of inference time {telemetry / inference:.2%}; failed requests {failed}")
    return {
        "telemetry_share_100pct": telemetry / inference,
        "throughput_observed_vs_plain": ratio,
        "requests_per_second": {"plain": plain.rates, "observed": observed.rates},
        "latency_p50_ms": {"plain": plain.p50, "observed": observed.p50},
        "latency_p99_ms": {"plain": plain.p99, "observed": observed.p99},
        "failed": failed,
    }


def run() -> dict[str, Any]:
    return asyncio.run(compare())
