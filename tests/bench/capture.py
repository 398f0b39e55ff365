"""What observing costs a served model: plain, 0%, 10% and 100% observed, and naive hooks, alternated in one run.

Each variant is a server in a process of its own; the clients are in this one. References are complete before the
first round, so drift is judged all the while.
"""

import asyncio
import contextlib
import json
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
import torch
from torch import nn

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb import open_inference_pb2_grpc as pb_grpc
from sidecar.demo.run import server
from tests.bench import kernel, models

CONFIG = """\
[[models]]
name = "bench"
source = "{source}"
threads = 1
batching.max_rows = {max_rows}
inputs = [{{ name = "x", datatype = "FP32", shape = {shape} }}]
outputs = [{{ name = "y", datatype = "FP32", shape = [-1, {outputs}] }}]

[server]
grpc_port = 0
http_port = 0

[drift]
reference_requests = 200

[capture]
{capture}
"""

CONCURRENT = (1, 8, 32)
ROUNDS = 2
PLAIN, NAIVE = "plain", "naive hooks"
CAPTURE = {
    PLAIN: "enabled = false",
    "0%": "sample_rate = 0.0\nbudget = 1.0",
    "10%": "sample_rate = 0.1\nbudget = 1.0",
    "100%": "sample_rate = 1.0\nbudget = 1.0",
    NAIVE: "enabled = false",
}


@dataclass(frozen=True, slots=True)
class Case:
    """seconds: length of a round, long enough for some batches of 32 clients."""

    title: str
    source: str
    naive_source: str
    shape: tuple[int, ...]
    outputs: int
    seconds: float
    max_rows: int = 32
    variants: Sequence[str] = tuple(CAPTURE)
    concurrent: Sequence[int] = CONCURRENT


ENCODER, DEMO, CNN, SMALL = (
    "12-layer 768-wide encoder", "demo model", "residual CNN", "4-layer 768-wide encoder",
)  # fmt: skip
CASES = (
    Case(DEMO, "sidecar.demo.model:build", "tests.bench.models:naive_digits", (64,), 10, 1.5),
    Case(
        ENCODER, "tests.bench.models:encoder", "tests.bench.models:naive_encoder",
        (models.TOKENS, models.WIDTH), models.WIDTH, 4.0, max_rows=8,
    ),
    Case(CNN, "tests.bench.models:residual_net", "tests.bench.models:naive_residual_net", models.IMAGE, 10, 2.0, 8),
    Case(
        SMALL, "tests.bench.models:small_encoder", "", (models.TOKENS, models.WIDTH), models.WIDTH, 3.0, 8,
        variants=(PLAIN, "100%"), concurrent=(8,),
    ),
)  # fmt: skip


@dataclass(slots=True)
class Side:
    """One server, and what its clients saw."""

    infer: Any
    http: str
    image: bytes
    shape: tuple[int, ...]
    sent: int = 0
    rates: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    latencies: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def status(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{self.http}/api/v1/status", timeout=30) as reply:
            status: dict[str, Any] = json.loads(reply.read())["models"][0]
            return status

    async def flood(self, clients: int, seconds: float) -> list[float]:
        """`clients` of them, each sending its next request when the last is answered. Seconds that each took."""
        latencies: list[float] = []
        end = time.perf_counter() + seconds

        async def client() -> None:
            while time.perf_counter() < end:
                self.sent += 1
                tensor = pb.ModelInferRequest.InferInputTensor(
                    name="x", datatype="FP32", shape=[1, *self.shape]
                )
                request = pb.ModelInferRequest(
                    model_name="bench", id=str(self.sent), inputs=[tensor], raw_input_contents=[self.image]
                )
                started = time.perf_counter()
                await self.infer(request)
                latencies.append(time.perf_counter() - started)

        await asyncio.gather(*(client() for _ in range(clients)))
        return latencies

    async def measure(self, clients: int, seconds: float) -> None:
        started = time.perf_counter()
        latencies = await self.flood(clients, seconds)
        self.rates[clients].append(len(latencies) / (time.perf_counter() - started))
        self.latencies[clients] += latencies


@contextlib.asynccontextmanager
async def serving(folder: Path, case: Case, variant: str) -> AsyncIterator[Side]:
    config = folder / f"{variant.strip('%')}.toml"
    config.write_text(
        CONFIG.format(
            source=case.naive_source if variant == NAIVE else case.source,
            max_rows=case.max_rows,
            shape=[-1, *case.shape],
            outputs=case.outputs,
            capture=CAPTURE[variant],
        )
    )
    image = np.random.default_rng(0).standard_normal(case.shape, np.float32).tobytes()
    async with server(config) as (grpc_address, http), grpc.aio.insecure_channel(grpc_address) as channel:
        yield Side(pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer, http, image, case.shape)


async def measure(case: Case) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        async with contextlib.AsyncExitStack() as stack:
            sides = {
                variant: await stack.enter_async_context(serving(Path(folder), case, variant))
                for variant in case.variants
            }
            for side in sides.values():
                await side.flood(32, 1.0)
            for variant in ("10%", "100%"):
                while (
                    variant in sides
                    and not (await asyncio.to_thread(sides[variant].status))["reference_ready"]
                ):
                    await sides[variant].flood(32, 2.0)
            before = {variant: await asyncio.to_thread(side.status) for variant, side in sides.items()}
            for _ in range(ROUNDS):
                for clients in case.concurrent:
                    for side in sides.values():
                        await side.measure(clients, case.seconds)
            after = {variant: await asyncio.to_thread(side.status) for variant, side in sides.items()}

    def share(variant: str) -> float:
        telemetry, inference = (
            after[variant][key] - before[variant][key] for key in ("telemetry_seconds", "inference_seconds")
        )
        return telemetry / inference

    plain = sides[PLAIN]
    rows = [
        {
            "variant": variant,
            "concurrent": clients,
            "requests_per_second": median(side.rates[clients]),
            "vs_plain": median(b / a for a, b in zip(plain.rates[clients], side.rates[clients], strict=True)),
            "p50_ms": float(np.quantile(side.latencies[clients], 0.5)) * 1000,
            "p99_ms": float(np.quantile(side.latencies[clients], 0.99)) * 1000,
        }
        for clients in case.concurrent
        for variant, side in sides.items()
    ]
    shares = {variant: share(variant) for variant in case.variants if variant.endswith("%")}
    print_case(case, rows, shares)
    return {"model": case.title, "share_of_inference": shares, "rows": rows}


def print_case(case: Case, rows: Sequence[dict[str, Any]], shares: dict[str, float]) -> None:
    print(f"{case.title}, {ROUNDS} alternated rounds of {case.seconds:g} s:")
    print(f"  {'clients':>7} {'variant':<12}{'requests/s':>11}{'vs plain':>10}{'p50 ms':>9}{'p99 ms':>9}")
    for row in rows:
        print(
            f"  {row['concurrent']:>7} {row['variant']:<12}{row['requests_per_second']:>11,.1f}"
            f"{row['vs_plain']:>10.3f}{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}"
        )
    told = ", ".join(f"{value:.2%} at {variant} sampling" for variant, value in shares.items())
    print(f"  telemetry share of inference time: {told}")


def naive_share() -> float:
    """Seconds in naive hooks over seconds of the encoder without them, in this process, on one thread."""
    torch.set_num_threads(1)
    x = torch.randn(8, models.TOKENS, models.WIDTH)
    plain, hooked = models.encoder().eval(), models.naive_encoder().eval()
    took: dict[nn.Module, list[float]] = {plain: [], hooked: []}
    with torch.inference_mode():
        for _ in range(8):
            for model, times in took.items():
                started = time.perf_counter()
                model(x)
                times.append(time.perf_counter() - started)
    return min(took[hooked]) / min(took[plain]) - 1


def run() -> dict[str, Any]:
    figures = kernel.run()
    cases = [asyncio.run(measure(case)) for case in CASES]
    shares = {case["model"]: case["share_of_inference"] for case in cases}
    overhead = naive_share()
    print(f"naive hooks on the encoder, 100% of a batch of 8, against none: {overhead:.1%} of inference time")
    return {
        **figures,
        "overhead_encoder_100pct": shares[ENCODER]["100%"],
        "overhead_encoder_10pct": shares[ENCODER]["10%"],
        "overhead_small_encoder_100pct": shares[SMALL]["100%"],
        "overhead_demo_100pct": shares[DEMO]["100%"],
        "overhead_naive_100pct": overhead,
        "cases": cases,
    }
