"""The demo's classifier with random weights, served for real."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sidecar import settings
from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from sidecar.app import Sidecar
from sidecar.types import Tensor

DIGITS = {
    "name": "digits",
    "source": "sidecar.demo.model:build",
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}],
    "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
    "threads": 1,
    "batching": {"max_rows": 8},
}
NOW = 1_000_000.0


@pytest.fixture(scope="session")
def configure():
    """Settings of one model on free ports, everything sampled, drained often; `model` changes the model's."""

    def configure(model=None, **sections):
        tree = {
            "server": {"grpc_port": 0, "http_port": 0, "grace_seconds": 5},
            "models": [{**DIGITS, **(model or {})}],
            "capture": {
                "sample_rate": 1.0, "budget": 1.0, "drain_seconds": 0.01, "patience_ms": 30_000, "slots": 1024,
            },
            "drift": {"reference_requests": 200},
            "store": {"path": ""},
        }  # fmt: skip
        for section, keys in sections.items():
            tree[section] = {**tree.get(section, {}), **keys}
        return settings.resolve(tree, {}, base=Path())

    return configure


@pytest.fixture(params=["completion queue", "grpc.aio"])
def front_end(request, monkeypatch):
    """Both servers that may stand at the port, one after the other."""
    monkeypatch.setattr("sidecar.server.listener.tested", lambda: request.param != "grpc.aio")


class Client:
    """Speaks gRPC and HTTP to a running sidecar."""

    def __init__(self, sidecar: Sidecar, stub: GRPCInferenceServiceStub, http: httpx.AsyncClient) -> None:
        self.sidecar, self.http = sidecar, http
        self.model = sidecar.models[0]
        self.recorder = self.model.observation.recorder if self.model.observation else None
        self._stub = stub
        self._numbers = itertools.count()

    async def infer(self, pixels: np.ndarray, version: str = "") -> np.ndarray:
        name = f"r{next(self._numbers)}"
        message = pb.ModelInferRequest(model_name="digits", model_version=version, id=name)
        message.inputs.add(name="pixels", datatype="FP32", shape=pixels.shape)
        message.raw_input_contents.append(pixels.tobytes())
        reply = await self._stub.ModelInfer(message, timeout=60)
        return np.frombuffer(reply.raw_output_contents[0], np.float32).reshape(reply.outputs[0].shape)

    async def send(self, requests: int = 120, at_once: int = 20) -> None:
        """All are answered, and as the plain variant answers them."""
        rng = np.random.default_rng(0)
        for _ in range(requests // at_once):
            sent = [rng.uniform(0, 16, (1 + i % 2, 64)).astype(np.float32) for i in range(at_once)]
            answers = await asyncio.gather(*map(self.infer, sent))
            for pixels, answer in zip(sent, answers, strict=True):
                expected = self.model.runtime.plain({"pixels": Tensor("FP32", pixels.copy())})["logits"].array
                assert np.allclose(answer, expected, rtol=1e-4, atol=1e-5)

    async def metrics(self) -> Callable[..., float]:
        """Look up a sample of one scrape: `found("sidecar_x_total", code="OK")`, labels of the model understood."""
        samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families((await self.http.get("/metrics")).text)
            for sample in family.samples
        }
        model = {"model": "digits", "version": "1"}
        return lambda name, **labels: samples[name, frozenset((model | labels).items())]


@pytest.fixture(scope="session")
def serve():
    """`async with serve(settings) as client:` a started sidecar, stopped at the end."""

    @asynccontextmanager
    async def serve(configured):
        sidecar = Sidecar(configured, lambda: NOW)
        await sidecar.start()
        try:
            async with (
                grpc.aio.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel,
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{sidecar.http_port}", trust_env=False) as http,
            ):
                yield Client(sidecar, GRPCInferenceServiceStub(channel), http)
        finally:
            await sidecar.stop()

    return serve
