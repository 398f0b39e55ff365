"""Versions are loaded, unloaded and swapped in a sidecar that serves."""

from __future__ import annotations

import asyncio
import json
import threading

import grpc
import numpy as np
import pytest

from sidecar import runtime
from sidecar._pb import open_inference_pb2 as pb
from sidecar.app import Sidecar

PIXELS = np.ones((1, 64), np.float32)
BROKEN = {"source": "tests.app.factories:Noisy", "taps": ("layer",)}


@pytest.fixture
def two_versions(configure):
    """Version 1 is served from the start, version 2 waits to be loaded; `changes` are those of version 2."""

    def two_versions(**changes):
        configured = configure(server={"admin": True})
        (first,) = configured.models
        second = first.model_copy(update={"version": "2", "load": False, **changes})
        return configured.model_copy(update={"models": (first, second)})

    return two_versions


def load(client, version):
    request = pb.RepositoryModelLoadRequest(model_name="digits")
    policy = {"version_policy": {"specific": {"versions": [version]}}}
    request.parameters["config"].string_param = json.dumps(policy)
    return client._stub.RepositoryModelLoad(request, timeout=60)


async def served(client):
    return [each["version"] for each in (await client.http.get("/readyz")).json()["models"]]


async def test_a_version_that_is_not_to_be_loaded_is_known_and_not_served(serve, two_versions):
    async with serve(two_versions()) as client:
        index = await client._stub.RepositoryIndex(pb.RepositoryIndexRequest())
        assert await served(client) == ["1"]
    assert [(each.version, each.state) for each in index.models] == [("1", "READY"), ("2", "UNAVAILABLE")]


async def test_swapping_versions_under_load_loses_no_request_and_moves_the_telemetry(serve, two_versions):
    async with serve(two_versions()) as client:
        done = asyncio.Event()
        answered = 0

        async def send():
            nonlocal answered
            while not done.is_set():
                await client.infer(PIXELS)
                answered += 1

        workers = [asyncio.create_task(send()) for _ in range(4)]
        for version in ("2", "1", "1", "2"):
            await load(client, version)
            await client.infer(PIXELS)
        done.set()
        await asyncio.gather(*workers)
        assert await served(client) == ["2"]
        (model,) = client.sidecar.models
        statistics = await client._stub.ModelStatistics(pb.ModelStatisticsRequest())
        metrics = (await client.http.get("/metrics")).text
        count = sum(
            float(line.rpartition(" ")[2])
            for line in metrics.splitlines()
            if line.startswith("sidecar_requests_total{") and 'code="OK"' in line
        )
    assert count == answered + 4
    assert 'sidecar_model_ready{model="digits",version="2"} 1.0' in metrics
    assert 'sidecar_model_ready{model="digits",version="1"}' not in metrics
    assert [each.version for each in statistics.model_stats] == ["2"]
    assert model.observation.recorder.sampled > 0
    for thread in [each for each in threading.enumerate() if each.name.startswith("sidecar")]:
        await asyncio.to_thread(thread.join, 60)


async def test_requests_are_answered_while_a_version_loads(serve, two_versions, monkeypatch):
    entered, released, build = threading.Event(), threading.Event(), runtime.load

    def slow(settings):
        if settings.version == "2":
            entered.set()
            assert released.wait(60)
        return build(settings)

    monkeypatch.setattr(runtime, "load", slow)
    async with serve(two_versions()) as client:
        loading = asyncio.ensure_future(load(client, "2"))
        await asyncio.to_thread(entered.wait, 60)
        await client.infer(PIXELS)
        assert await served(client) == ["1"]
        released.set()
        await loading
        assert await served(client) == ["2"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (BROKEN, "model 'digits' version '2' failed its self-check and takes no traffic; the log says why"),
        (
            {"source": "tests.app.factories:Missing"},
            "model 'digits' version '2' cannot be loaded; the log says why",
        ),
    ],
    ids=["self-check", "source"],
)
async def test_a_version_that_fails_takes_no_traffic_and_the_one_before_goes_on(
    *, serve, two_versions, changes, text
):
    async with serve(two_versions(**changes)) as client:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await load(client, "2")
        await client.infer(PIXELS)
        assert await served(client) == ["1"]
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.value.details() == text


async def test_everything_can_be_unloaded_and_loaded_again(serve, two_versions):
    async with serve(two_versions()) as client:
        await client._stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="digits"))
        assert await served(client) == []
        with pytest.raises(grpc.aio.AioRpcError, match="no model 'digits'"):
            await client.infer(PIXELS)
        await client._stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="digits"))
        await client.infer(PIXELS)
        assert await served(client) == ["1", "2"]


async def test_without_admin_nothing_can_be_loaded(serve, configure):
    async with serve(configure()) as client:
        with pytest.raises(grpc.aio.AioRpcError, match=r"server\.admin is false") as refused:
            await load(client, "1")
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_load_that_outlives_the_server_is_released(two_versions, monkeypatch):
    sidecar = Sidecar(two_versions(), lambda: 0.0)
    await sidecar.start()
    await sidecar._versions.read("digits")
    servable = await sidecar._versions.load("digits", "2")
    await sidecar._versions.release(servable)
    assert not servable.ready
    assert [model.settings.key for model in sidecar.models] == [("digits", "1")]
    await sidecar.stop()
