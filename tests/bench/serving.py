"""`make bench-serving`: the same model on this server, on the barest grpc.aio server, on MLServer and on Triton.

All servers stand ready at once; every round loads one after the other, so that what else the machine does falls
on all alike. Ratios are medians over rounds of the ratio within a round.
"""

import contextlib
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
import torch

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb import open_inference_pb2_grpc as pb_grpc
from tests.bench import h2load, perf_analyzer
from tests.bench.peers import mlp
from tests.bench.servers import NoServerError, Server, bare, mlserver, running, sidecar, triton
from tools.fetch import FetchError

CONCURRENT = (1, 8, 32)
ROUNDS = 5
SECONDS = 2.0
OFF, TENTH, ALL = "sidecar, telemetry off", "sidecar, 10% observed", "sidecar, 100% observed"
BARE, MLSERVER, TRITON, TRITON_PLAIN = (
    "bare grpc.aio",
    "MLServer",
    "Triton Python, dynamic batching",
    "Triton Python",
)
SERVERS = {
    OFF: sidecar("enabled = false"),
    TENTH: sidecar("sample_rate = 0.1\nbudget = 1.0"),
    ALL: sidecar("sample_rate = 1.0\nbudget = 1.0"),
    BARE: bare,
    MLSERVER: mlserver,
    TRITON: triton("dynamic_batching { }"),
    TRITON_PLAIN: triton(""),
}


def message() -> pb.ModelInferRequest:
    """Batch 1, raw. Without an id: the server gives each request its own, and samples by it."""
    x = np.random.default_rng(0).standard_normal((1, mlp.WIDTH), np.float32)
    request = pb.ModelInferRequest(model_name="mlp", raw_input_contents=[x.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    return request


def check(name: str, server: Server, request: pb.ModelInferRequest) -> None:
    """Raises RuntimeError unless `server` gives what the model gives."""
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel, torch.inference_mode():
        response = pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
        x = torch.frombuffer(bytearray(request.raw_input_contents[0]), dtype=torch.float32).reshape(1, -1)
        expected = mlp.build()(x).numpy()
    given = np.frombuffer(response.raw_output_contents[0], np.float32).reshape(expected.shape)
    if not np.allclose(given, expected, atol=1e-5):
        raise RuntimeError(f"{name} gives another answer than the model")


@contextlib.contextmanager
def servers(request: pb.ModelInferRequest) -> Iterator[dict[str, Server]]:
    """All that start here; the rest is skipped with a word."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        started = {}
        for number, (name, start) in enumerate(SERVERS.items()):
            home = folder / str(number)
            home.mkdir()
            try:
                started[name] = stack.enter_context(running(start, home))
            except NoServerError as error:
                print(f"{name} is skipped: {error}")
                continue
            check(name, started[name], request)
        yield started


def run() -> dict[str, Any]:
    generator, request = h2load.program(), message()
    body, reply = request.SerializeToString(), 4 * mlp.WIDTH
    loads: dict[tuple[str, int], list[h2load.Load]] = defaultdict(list)
    cpu: dict[tuple[str, int], list[float]] = defaultdict(list)
    with servers(request) as started:
        for number in range(ROUNDS + 1):
            for concurrent in CONCURRENT:
                for name, server in started.items():
                    before = server.cpu_seconds()
                    load = h2load.run(
                        generator, server.port, body, concurrent=concurrent, seconds=SECONDS, reply=reply
                    )
                    if number:  # the round before the first warms up
                        loads[name, concurrent].append(load)
                        cpu[name, concurrent].append(
                            1000 * (server.cpu_seconds() - before) / len(load.latencies_ms)
                        )
        analysed = analyse(started)
    rows = [
        {
            "server": name,
            "concurrent": concurrent,
            "requests_per_second": median(load.per_second for load in loads[name, concurrent]),
            "p50_ms": median(float(np.quantile(load.latencies_ms, 0.5)) for load in loads[name, concurrent]),
            "p99_ms": median(float(np.quantile(load.latencies_ms, 0.99)) for load in loads[name, concurrent]),
            "cpu_seconds_per_1000": median(cpu[name, concurrent]),
            "requests_per_second_by_round": [load.per_second for load in loads[name, concurrent]],
        }
        for concurrent in CONCURRENT
        for name in started
    ]

    def rate(name: str, over: str, concurrent: int) -> float | None:
        pairs = zip(loads[name, concurrent], loads[over, concurrent], strict=True)
        return median(a.per_second / b.per_second for a, b in pairs) if over in started else None

    def p50(name: str, over: str) -> float:
        pairs = zip(loads[name, 1], loads[over, 1], strict=True)
        return median(float(np.median(a.latencies_ms) / np.median(b.latencies_ms)) for a, b in pairs)

    ratios = {
        "vs_mlserver_32": rate(TENTH, MLSERVER, 32),
        "vs_triton_python_32": rate(TENTH, TRITON, 32),
        "p50_vs_bare_1": p50(TENTH, BARE),
        "vs_bare_32": rate(TENTH, BARE, 32),
        "tenth_vs_off_32": rate(TENTH, OFF, 32),
        "all_vs_off_32": rate(ALL, OFF, 32),
    }
    show(rows, ratios)
    return {**ratios, "rounds": ROUNDS, "seconds": SECONDS, "rows": rows, "perf_analyzer": analysed}


def analyse(started: Mapping[str, Server]) -> dict[str, dict[str, float]]:
    """What Triton's perf_analyzer says of us and of Triton, both of which tell it their own times; one run each."""
    try:
        perf_analyzer.fetch()
    except FetchError as error:
        print(f"perf_analyzer is skipped: {error}")
        return {}
    options = (
        "--concurrency-range",
        str(CONCURRENT[-1]),
        "-p",
        f"{SECONDS * 1000:.0f}",
        "-s",
        "50",
        "-r",
        "3",
    )
    found = {
        name: perf_analyzer.run(f"127.0.0.1:{started[name].port}", "mlp", options)
        for name in (TENTH, TRITON)
        if name in started
    }
    for name, columns in found.items():
        print(
            f"perf_analyzer, {CONCURRENT[-1]} in flight, {name}: {columns['Inferences/Second']:,.0f} requests/s, "
            f"p50 {columns['p50 latency'] / 1000:.2f} ms, p99 {columns['p99 latency'] / 1000:.2f} ms"
        )
    return found


def show(rows: list[dict[str, Any]], ratios: dict[str, float | None]) -> None:
    print(f"MLP 512-2048-512, float32, batch 1, raw; medians of {ROUNDS} alternated rounds of {SECONDS:g} s:")
    print(f"  {'in flight':>9} {'server':<33}{'requests/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'CPU s/1000':>12}")
    for row in rows:
        print(
            f"  {row['concurrent']:>9} {row['server']:<33}{row['requests_per_second']:>11,.0f}"
            f"{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}{row['cpu_seconds_per_1000']:>12.3f}"
        )
    print(f"with 10% observed: {', '.join(f'{key} {value:.2f}' for key, value in ratios.items() if value)}")
