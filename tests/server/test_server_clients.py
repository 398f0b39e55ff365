"""Every call of NVIDIA's clients that is not inference: what it gets, or with which status it is refused."""

from __future__ import annotations

import asyncio
import inspect
import logging

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

from sidecar.settings import BatchingSettings
from sidecar.types import TensorSpec

CALLS = {
    "is_server_live": (),
    "is_server_ready": (),
    "is_model_ready": ("echo",),
    "get_server_metadata": (),
    "get_model_metadata": ("echo",),
    "get_model_config": ("echo",),
    "get_model_repository_index": (),
    "load_model": ("echo",),
    "unload_model": ("echo",),
    "get_inference_statistics": (),
    "get_trace_settings": (),
    "update_trace_settings": ("", {"trace_level": ["TIMESTAMPS"]}),
    "get_log_settings": (),
    "update_log_settings": ({"log_verbose_level": 3},),
    "get_system_shared_memory_status": (),
    "register_system_shared_memory": ("region", "/key", 8),
    "unregister_system_shared_memory": (),
    "get_cuda_shared_memory_status": (),
    "register_cuda_shared_memory": ("region", b"aGFuZGxl", 0, 8),
    "unregister_cuda_shared_memory": (),
}
"""Name of a client's method -> arguments."""

TESTED_ELSEWHERE = {
    "infer",
    "async_infer",
    "stream_infer",
    "async_stream_infer",
    "start_stream",
    "stop_stream",
}
PLUMBING = {"close", "plugin", "register_plugin", "unregister_plugin"}

FORBIDDEN = {
    "load_model", "unload_model", "update_trace_settings", "update_log_settings",
    "get_system_shared_memory_status", "register_system_shared_memory", "unregister_system_shared_memory",
}  # fmt: skip
UNIMPLEMENTED = {
    "get_cuda_shared_memory_status", "register_cuda_shared_memory", "unregister_cuda_shared_memory",
}  # fmt: skip
OFF = {name for name in FORBIDDEN if "update" in name or "shared" in name}


async def outcome(call):
    try:
        await call
    except InferenceServerException as error:
        return error.status().removeprefix("StatusCode.")
    return "OK"


def expected(name, admin):
    if name in UNIMPLEMENTED or (admin and name in OFF):
        return "UNIMPLEMENTED"
    return "PERMISSION_DENIED" if name in FORBIDDEN and not admin else "OK"


@pytest.mark.parametrize("api", [tritonclient.grpc, tritonclient.grpc.aio], ids=["grpc", "grpc.aio"])
def test_every_call_of_the_client_is_in_the_table(api):
    methods = {
        name
        for name, _ in inspect.getmembers(api.InferenceServerClient, inspect.isfunction)
        if name[0] != "_"
    }
    assert methods - TESTED_ELSEWHERE - PLUMBING == set(CALLS)


@pytest.mark.parametrize("admin", [False, True])
async def test_the_asyncio_client_gets_an_answer_or_the_status_that_is_due(
    serve, make_shelf, model, make_servable, fp32_spec, admin
):
    shelf = make_shelf([fp32_spec], echo=["1"])
    async with (
        serve(make_servable(model.execute, [fp32_spec]), repository=shelf, admin=admin) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        for name, arguments in CALLS.items():
            assert (name, await outcome(getattr(client, name)(*arguments))) == (name, expected(name, admin))


@pytest.mark.parametrize("admin", [False, True])
async def test_the_blocking_client_gets_the_same(serve, make_shelf, model, make_servable, fp32_spec, admin):
    shelf = make_shelf([fp32_spec], echo=["1"])
    async with serve(make_servable(model.execute, [fp32_spec]), repository=shelf, admin=admin) as address:
        with tritonclient.grpc.InferenceServerClient(address) as client:
            for name, arguments in CALLS.items():
                call = asyncio.to_thread(getattr(client, name), *arguments)
                assert (name, await outcome(call)) == (name, expected(name, admin))


async def test_a_configuration_has_shapes_without_the_batch_dimension_and_what_batching_is_set_to(
    serve, model, make_servable
):
    specs = [TensorSpec("x", "FP32", (-1, 3)), TensorSpec("s", "BYTES", (-1,))]
    settings = BatchingSettings(max_delay_ms=1.5, queue_requests=7, priority_levels=4)
    async with (
        serve(make_servable(model.execute, specs), batching=settings) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        config = (await client.get_model_config("echo", as_json=True))["config"]
    assert config["max_batch_size"] == 8
    assert config["input"] == [
        {"name": "x", "data_type": "TYPE_FP32", "dims": ["3"]},
        {"name": "s", "data_type": "TYPE_STRING"},
    ]
    assert config["output"] == config["input"]
    assert config["dynamic_batching"] == {
        "max_queue_delay_microseconds": "1500",
        "priority_levels": "4",
        "default_priority_level": "4",
        "default_queue_policy": {"allow_timeout_override": True, "max_queue_size": 7},
    }


async def test_a_model_without_batches_is_configured_with_whole_shapes_and_no_scheduler(
    serve, model, make_servable
):
    single = make_servable(model.execute, [TensorSpec("x", "BF16", (2, -1))], max_rows=0)
    async with (
        serve(single) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        config = (await client.get_model_config("echo")).config
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [2, -1])
    assert config.WhichOneof("scheduling_choice") is None
    assert not config.model_transaction_policy.decoupled


async def test_log_settings_are_those_of_the_logger_and_asking_for_them_again_is_no_change(serve, caplog):
    caplog.set_level(logging.WARNING, "sidecar")
    async with serve() as address, tritonclient.grpc.aio.InferenceServerClient(address) as client:
        found = (await client.get_log_settings(as_json=True))["settings"]
        await client.update_log_settings({"log_info": False, "log_file": ""})
    assert {name: next(iter(value.values())) for name, value in found.items()} == {
        "log_file": "", "log_info": False, "log_warning": True, "log_error": True, "log_verbose_level": 0,
    }  # fmt: skip


async def test_a_change_of_settings_is_refused_by_name(serve):
    async with (
        serve(admin=True) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        with pytest.raises(InferenceServerException, match=r"cannot change 'log_verbose_level': log\.level"):
            await client.update_log_settings({"log_verbose_level": 1})
        with pytest.raises(
            InferenceServerException, match="cannot change 'trace_rate': nothing can be traced"
        ):
            await client.update_trace_settings(settings={"trace_rate": "1", "trace_level": None})


async def test_nothing_is_traced_and_a_model_that_is_not_served_is_not_found(serve):
    async with serve() as address, tritonclient.grpc.aio.InferenceServerClient(address) as client:
        found = await client.get_trace_settings(as_json=True)
        await client.update_trace_settings(settings={"trace_level": "OFF"})
        with pytest.raises(InferenceServerException, match="no model 'nope', served are none"):
            await client.get_trace_settings("nope")
    assert found == {"settings": {"trace_level": {"value": ["OFF"]}}}


async def infer(client, **more):
    entry = tritonclient.grpc.aio.InferInput("fp32", [2, 3], "FP32")
    entry.set_data_from_numpy(np.zeros((2, 3), np.float32))
    return await client.infer("echo", [entry], **more)


async def test_statistics_count_rows_batches_and_failures_of_each_version(
    serve, model, make_servable, fp32_spec
):
    versions = [make_servable(model.execute, [fp32_spec], version=version) for version in ("1", "2")]
    async with (
        serve(*versions) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        await infer(client)
        await infer(client)
        model.failure = RuntimeError("no")
        assert await outcome(infer(client)) == "INTERNAL"
        both = (await client.get_inference_statistics("echo")).model_stats
        (second,) = (await client.get_inference_statistics("echo", "2")).model_stats
        assert len((await client.get_inference_statistics()).model_stats) == 2
        assert await outcome(client.get_inference_statistics("echo", "3")) == "NOT_FOUND"
    assert [each.version for each in both] == ["1", "2"]
    assert (both[0].inference_count, both[0].last_inference) == (0, 0)
    assert (second.inference_count, second.execution_count) == (4, 2)
    assert second.last_inference == 1_700_000_000_500
    stats = second.inference_stats
    assert (stats.success.count, stats.fail.count, stats.queue.count) == (2, 1, 2)
    assert stats.success.ns >= stats.queue.ns > 0 == stats.cache_hit.count
    stages = stats.compute_input, stats.compute_infer, stats.compute_output
    assert [(stage.count, stage.ns) for stage in stages] == [(2, 2000), (2, 4000), (2, 6000)]
    (batch,) = second.batch_stats
    assert (batch.batch_size, batch.compute_infer.count) == (2, 2)
    assert batch.compute_infer.ns == stats.compute_infer.ns


async def test_a_method_that_the_protocol_lacks_is_unimplemented(serve):
    async with serve() as address, grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/inference.GRPCInferenceService/Nope")(b"")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
