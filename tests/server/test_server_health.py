"""The health service: what it says, and that nobody who watches can hold the server up."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.server.health import Health
from sidecar.server.server import Server
from sidecar.settings import ServerSettings

pytestmark = pytest.mark.usefixtures("front_end")

Status = health_pb2.HealthCheckResponse


async def test_a_service_that_nobody_named_is_not_found_and_can_be_watched(serve):
    asked = health_pb2.HealthCheckRequest(service="nope")
    async with serve() as address, grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Check(asked)
        assert (await stub.Watch(asked).read()).status == Status.SERVICE_UNKNOWN
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_stopping_server_ends_a_watch_after_its_last_word_and_does_not_wait_for_it(
    ledger, model, make_servable, fp32_spec
):
    server = Server(ServerSettings(grpc_port=0, grace_seconds=3600), [], {}, ledger)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.start()}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == Status.SERVING
        await server.stop()
        assert (await watch.read()).status == Status.NOT_SERVING
        assert await watch.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_watcher_that_reads_nothing_holds_nobody_up():
    class Stuck:
        async def write(self, message):
            await asyncio.Event().wait()

    health = Health()
    await health.set("", Status.SERVING)
    watch = asyncio.create_task(health.Watch(health_pb2.HealthCheckRequest(), Stuck()))
    await asyncio.sleep(0)
    await health.set("", Status.NOT_SERVING)
    assert (await health.Check(health_pb2.HealthCheckRequest(), None)).status == Status.NOT_SERVING
    watch.cancel()


async def test_nothing_serves_again_once_the_server_leaves():
    health = Health()
    await health.set("", Status.SERVING)
    await health.enter_graceful_shutdown()
    await health.set("", Status.SERVING)
    assert (await health.Check(health_pb2.HealthCheckRequest(), None)).status == Status.NOT_SERVING
