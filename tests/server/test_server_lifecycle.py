"""Health, reflection, ports, and the order of stopping."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from sidecar.errors import ConfigError
from sidecar.server.server import SERVICE, Server
from sidecar.settings import BatchingSettings, ServerSettings
from sidecar.types import TensorSpec

pytestmark = pytest.mark.usefixtures("front_end")

Status = health_pb2.HealthCheckResponse
BATCHING = {("echo", "1"): BatchingSettings(max_delay_ms=0)}


def infer_message(id=""):
    message = pb.ModelInferRequest(model_name="echo", id=id)
    message.inputs.add(name="fp32", datatype="FP32", shape=[1, 3])
    message.raw_input_contents.append(np.zeros(3, np.float32).tobytes())
    return message


async def check(channel, service=""):
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return reply.status


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService"])
async def test_health_follows_the_models_readiness(ledger, model, make_servable, fp32_spec, service):
    servable = make_servable(model.execute, [fp32_spec])
    servable.ready = False
    server = Server(ServerSettings(grpc_port=0), [servable], BATCHING, ledger)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.start()}") as channel:
        assert await check(channel, service) == Status.NOT_SERVING
        servable.ready = True
        await server.refresh_health()
        assert await check(channel, service) == Status.SERVING
        await server.stop()


async def test_stopping_says_not_serving_first_and_still_finishes_what_is_in(
    ledger, model, make_servable, fp32_spec
):
    model.gate.clear()
    server = Server(
        ServerSettings(grpc_port=0), [make_servable(model.execute, [fp32_spec])], BATCHING, ledger
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.start()}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == Status.SERVING
        running = asyncio.ensure_future(GRPCInferenceServiceStub(channel).ModelInfer(infer_message("in")))
        await model.entered.wait()
        stopping = asyncio.create_task(server.stop())
        assert (await watch.read()).status == Status.NOT_SERVING
        watch.cancel()
        assert not stopping.done()
        model.gate.set()
        assert (await running).id == "in"
        await stopping
    assert ledger.codes == {"OK": 1}


async def test_a_batch_that_never_ends_does_not_stop_the_server_from_stopping(
    ledger, model, make_servable, fp32_spec, caplog
):
    model.gate.clear()
    settings = ServerSettings(grpc_port=0, grace_seconds=0.05)
    server = Server(settings, [make_servable(model.execute, [fp32_spec])], BATCHING, ledger)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.start()}") as channel:
        running = asyncio.ensure_future(GRPCInferenceServiceStub(channel).ModelInfer(infer_message()))
        await model.entered.wait()
        await server.stop()
        with pytest.raises(grpc.aio.AioRpcError):
            await running
    assert "a model still ran" in caplog.text
    assert ledger.codes == {"CANCELLED": 1}


async def test_a_client_that_gives_up_is_counted_as_cancelled(serve, ledger, model, make_servable, fp32_spec):
    model.gate.clear()
    async with (
        serve(make_servable(model.execute, [fp32_spec])) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        call = stub.ModelInfer(infer_message(), timeout=60)
        waiting = asyncio.ensure_future(call)
        await model.entered.wait()
        call.cancel()
        await asyncio.wait([waiting])
        await ledger.answered.wait()
        model.gate.set()
    assert ledger.codes == {"CANCELLED": 1}


async def test_a_taken_port_is_a_config_error(serve, ledger):
    async with serve() as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            await Server(ServerSettings(grpc_port=port), [], {}, ledger).start()


def test_a_batching_model_with_a_scalar_input_is_a_config_error(ledger, model, make_servable):
    scalar = make_servable(model.execute, [TensorSpec("t", "FP32", ())])
    with pytest.raises(ConfigError, match="input t has no dimension to batch over"):
        Server(ServerSettings(), [scalar], BATCHING, ledger)


async def reflect(address, **question):
    async with grpc.aio.insecure_channel(address) as channel:
        questions = iter([reflection_pb2.ServerReflectionRequest(**question)])
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(questions)
        reply = await call.read()
        assert await call.code() is grpc.StatusCode.OK
        return reply


async def test_reflection_lists_the_services_when_it_is_on(serve):
    async with serve(reflection=True) as address:
        reply = await reflect(address, list_services="")
    names = {service.name for service in reply.list_services_response.service}
    assert names == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


@pytest.mark.parametrize("symbol", [SERVICE, "grpc.health.v1.Health"])
async def test_reflection_describes_each_service_it_lists(serve, symbol):
    async with serve(reflection=True) as address:
        reply = await reflect(address, file_containing_symbol=symbol)
    (described,) = reply.file_descriptor_response.file_descriptor_proto
    file = FileDescriptorProto.FromString(described)
    assert [f"{file.package}.{service.name}" for service in file.service] == [symbol]


async def test_reflection_is_unknown_when_it_is_off(serve):
    method = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"
    async with serve() as address, grpc.aio.insecure_channel(address) as channel:
        # As a call with one message: a stream may fail on its own when the answer comes before its first message.
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(method)(b"")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_service_can_be_given_its_clock_and_ids(ledger, model, make_servable, fp32_spec):
    from sidecar.server.batching import Batcher
    from sidecar.server.models import Models
    from sidecar.server.service import InferenceService

    class Context:
        def time_remaining(self):
            return 2.0

    batcher = Batcher(make_servable(model.execute, [fp32_spec]), BATCHING["echo", "1"], ledger, lambda: 50.0)
    service = InferenceService(Models([batcher]), ledger, clock=lambda: 50.0, new_id=lambda: "made here")
    reply = await service.ModelInfer(infer_message(), Context())
    assert reply.id == "made here"
    assert model.batches[0][0].deadline == 52.0
