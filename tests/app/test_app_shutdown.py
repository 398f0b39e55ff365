"""SIGTERM to a real process that has work to do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub

ROOT = Path(__file__).parent.parent.parent
CONFIG = """
[server]
grpc_port = 0
http_port = 0
shutdown_delay_seconds = {delay}
[log]
format = "json"
[capture]
sample_rate = 0.1
[[models]]
name = "echo"
source = "tests.app.factories:Identity"
taps = ["layer"]
inputs = [{{name = "x", datatype = "FP32", shape = [-1, 3]}}]
outputs = [{{name = "y", datatype = "FP32", shape = [-1, 3]}}]
"""
SERVING = health_pb2.HealthCheckResponse.SERVING


@asynccontextmanager
async def process(folder, delay):
    """`sidecar serve` in a process of its own: the process, and its two ports."""
    config = folder / "sidecar.toml"
    config.write_text(CONFIG.format(delay=delay))
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    served = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar.cli", "serve", "--config", str(config),
        env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        line = (await served.stdout.readline()).decode()
        assert line.startswith("sidecar ready"), line + (await served.stderr.read()).decode()
        grpc_port, http_port = (word.rpartition(":")[2] for word in line.strip().split(", "))
        yield served, f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{http_port}"
    finally:
        if served.returncode is None:
            served.kill()
        await served.wait()


def infer_message():
    message = pb.ModelInferRequest(model_name="echo")
    message.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    message.raw_input_contents.append(np.zeros(3, np.float32).tobytes())
    return message


class Clients:
    """Eight that send one request after the other, as long as readiness lets them."""

    def __init__(self, address):
        self.ready, self.answered, self._address = True, 0, address

    async def send(self):
        async with grpc.aio.insecure_channel(
            self._address, [("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub = GRPCInferenceServiceStub(channel)

            async def one():
                while self.ready:
                    await stub.ModelInfer(infer_message(), timeout=30)
                    self.answered += 1

            await asyncio.gather(*(one() for _ in range(8)))


async def watch(address, clients):
    """As gRPC's own balancers do."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        while (await call.read()).status == SERVING:
            pass
        clients.ready = False
        call.cancel()


async def poll(url, clients):
    """As an orchestrator does."""
    async with httpx.AsyncClient(trust_env=False) as http:
        while (await http.get(f"{url}/readyz")).status_code == 200:
            await asyncio.sleep(0.1)
        clients.ready = False


async def errors_of(served, seconds):
    """What a process that is about to end wrote; of one that does not end, where its threads are."""
    reading = asyncio.create_task(served.communicate())
    if not (await asyncio.wait([reading], timeout=seconds))[0]:
        served.send_signal(signal.SIGABRT)
    return (await reading)[1].decode()


async def stop_under_load(folder, follow, delay):
    """Requests answered; any that failed is raised."""
    async with process(folder, delay) as (served, address, url):
        clients = Clients(address)
        sending = asyncio.create_task(clients.send())
        following = asyncio.create_task(watch(address, clients) if follow == "watch" else poll(url, clients))
        while clients.answered < 100:
            await asyncio.sleep(0.01)
            assert not sending.done(), sending.result()
        served.send_signal(signal.SIGTERM)
        await asyncio.gather(sending, following)
        errors = await errors_of(served, 60)
        assert served.returncode == 0, errors
        lines = [json.loads(line) for line in errors.splitlines()]
        assert [line for line in lines if line["level"] in ("warning", "error")] == []
        return clients.answered


@pytest.mark.parametrize("follow", ["watch", "poll"])
async def test_no_request_of_clients_that_follow_readiness_is_lost(tmp_path, follow):
    assert await stop_under_load(tmp_path, follow, 0.5) > 100


@pytest.mark.slow
async def test_a_hundred_times_sigterm_under_load_loses_no_request(tmp_path):
    answered = [await stop_under_load(tmp_path, ("watch", "poll")[number % 2], 0.5) for number in range(100)]
    assert min(answered) > 100


async def test_ctrl_c_does_not_wait_for_anybody(tmp_path):
    async with process(tmp_path, 600) as (served, _, _):
        before = time.monotonic()
        served.send_signal(signal.SIGINT)
        errors = await errors_of(served, 60)
        assert served.returncode == 0, errors
        assert time.monotonic() - before < 60
