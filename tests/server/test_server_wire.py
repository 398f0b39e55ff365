"""The server as NVIDIA's own client sees it."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

import sidecar
from sidecar.types import InferReply, Tensor, TensorSpec

ROWS = {
    "BOOL": np.array([[True, False, True]]),
    "FP16": np.array([[0.5, -2.0, 65504.0]], np.float16),
    "FP32": np.array([[0.1, np.nan, -np.inf]], np.float32),
    "FP64": np.array([[0.1, 1e300, -0.0]]),
    "BF16": np.array([[1.0, -2.5, 3.140625]], np.float32),
    "BYTES": np.array([[b"", b"\x00\xff", "\u00e4".encode()]], np.object_),
} | {
    name: np.array([[np.iinfo(dtype).min, 0, np.iinfo(dtype).max]], dtype)
    for name, dtype in {
        f"{sign}INT{bits}": np.dtype(f"{sign}int{bits}".lower())
        for sign in ("", "U")
        for bits in (8, 16, 32, 64)
    }.items()
}


def infer_inputs(api, names):
    inputs = []
    for name in names:
        entry = api.InferInput(name.lower(), [1, 3], name)
        entry.set_data_from_numpy(ROWS[name])
        inputs.append(entry)
    return inputs


async def test_the_blocking_client_gets_every_datatype_back(serve, model, make_servable, all_specs):
    def call(address):
        with tritonclient.grpc.InferenceServerClient(address) as client:
            return client.infer("echo", infer_inputs(tritonclient.grpc, ROWS), request_id="r1")

    async with serve(make_servable(model.execute, all_specs)) as address:
        result = await asyncio.to_thread(call, address)
    assert result.get_response().id == "r1"
    for name, sent in ROWS.items():
        np.testing.assert_array_equal(result.as_numpy(name.lower()), sent)


@pytest.mark.parametrize("name", ROWS)
async def test_the_asyncio_client_gets_its_values_back(serve, model, make_servable, name):
    spec = TensorSpec(name.lower(), name, (-1, 3))
    async with (
        serve(make_servable(model.execute, [spec])) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        result = await client.infer("echo", infer_inputs(tritonclient.grpc.aio, [name]))
    np.testing.assert_array_equal(result.as_numpy(name.lower()), ROWS[name])


async def test_a_request_without_an_id_gets_one(serve, model, make_servable, fp32_spec):
    async with (
        serve(make_servable(model.execute, [fp32_spec])) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        result = await client.infer("echo", infer_inputs(tritonclient.grpc.aio, ["FP32"]))
    assert len(result.get_response().id) == 32
    assert model.batches[0][0].id == result.get_response().id


async def test_only_the_requested_outputs_come_back_in_the_order_asked_for(serve, model, make_servable):
    specs = [TensorSpec("fp32", "FP32", (-1, 3)), TensorSpec("int8", "INT8", (-1, 3))]
    wanted = [tritonclient.grpc.aio.InferRequestedOutput(name) for name in ("int8",)]
    both = [tritonclient.grpc.aio.InferRequestedOutput(name) for name in ("int8", "fp32")]
    async with (
        serve(make_servable(model.execute, specs)) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        inputs = infer_inputs(tritonclient.grpc.aio, ["FP32", "INT8"])
        one = await client.infer("echo", inputs, outputs=wanted)
        two = await client.infer("echo", inputs, outputs=both)
    assert [output.name for output in one.get_response().outputs] == ["int8"]
    assert [output.name for output in two.get_response().outputs] == ["int8", "fp32"]
    np.testing.assert_array_equal(two.as_numpy("fp32"), ROWS["FP32"])


async def test_parameters_arrive_as_plain_python_values(serve, model, make_servable, fp32_spec):
    sent = {"sidecar_sample": True, "k": 3, "route": "eu"}
    async with (
        serve(make_servable(model.execute, [fp32_spec])) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        await client.infer(
            "echo", infer_inputs(tritonclient.grpc.aio, ["FP32"]), parameters=sent, priority=2**63
        )
    assert model.batches[0][0].parameters == {**sent, "priority": 2**63}


async def test_metadata_names_server_and_model(serve, model, make_servable, fp32_spec):
    versions = [make_servable(model.execute, [fp32_spec], version=version) for version in ("10", "9", "beta")]
    async with (
        serve(*versions) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        server = await client.get_server_metadata(as_json=True)
        latest = await client.get_model_metadata("echo")
    assert (server["name"], server["version"]) == ("activation-sidecar", sidecar.__version__)
    assert {"classification", "statistics", "model_repository"} < set(server["extensions"])
    assert "system_shared_memory" not in server["extensions"]
    assert list(latest.versions) == ["beta", "9", "10"]
    assert latest.platform == "python"
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in latest.inputs] == [
        ("fp32", "FP32", [-1, 3])
    ]
    assert latest.outputs == latest.inputs


async def test_no_version_means_the_highest_number(serve, make_servable, model, fp32_spec, ledger):
    versions = [make_servable(model.execute, [fp32_spec], version=version) for version in ("10", "9", "beta")]
    async with (
        serve(*versions) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        result = await client.infer("echo", infer_inputs(tritonclient.grpc.aio, ["FP32"]))
        await client.infer("echo", infer_inputs(tritonclient.grpc.aio, ["FP32"]), model_version="beta")
    assert result.get_response().model_version == "10"
    assert ledger.finished == [("echo", "10", "OK"), ("echo", "beta", "OK")]


async def test_live_ready_and_model_ready_answer_separately(serve, model, make_servable, fp32_spec):
    loading = make_servable(model.execute, [fp32_spec], name="loading")
    loading.ready = False
    async with (
        serve(make_servable(model.execute, [fp32_spec]), loading) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        assert await client.is_server_live()
        assert not await client.is_server_ready()
        assert await client.is_model_ready("echo")
        assert not await client.is_model_ready("loading")
        loading.ready = True
        assert await client.is_server_ready()


@pytest.mark.parametrize(
    ("model_name", "version", "text"),
    [("nope", "", "no model 'nope', served are 'echo'"), ("echo", "7", "no version '7', served are '1'")],
)
async def test_an_unknown_model_is_not_found_and_the_text_lists_what_is_served(
    *, serve, model, make_servable, fp32_spec, model_name, version, text
):
    async with (
        serve(make_servable(model.execute, [fp32_spec])) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        for call in (
            client.infer(model_name, infer_inputs(tritonclient.grpc.aio, ["FP32"]), version),
            client.get_model_metadata(model_name, version),
            client.is_model_ready(model_name, version),
        ):
            with pytest.raises(InferenceServerException, match=text) as failed:
                await call
            assert failed.value.status() == "StatusCode.NOT_FOUND"


async def test_a_bad_input_is_refused_and_the_server_lives_on(serve, model, make_servable, fp32_spec, ledger):
    async with (
        serve(make_servable(model.execute, [fp32_spec])) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        with pytest.raises(
            InferenceServerException, match="no input 'int8', the model takes 'fp32'"
        ) as failed:
            await client.infer("echo", infer_inputs(tritonclient.grpc.aio, ["INT8"]))
        await client.infer("echo", infer_inputs(tritonclient.grpc.aio, ["FP32"]))
    assert failed.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert ledger.codes == {"INVALID_ARGUMENT": 1, "OK": 1}
    assert len(model.batches) == 1


async def test_a_model_that_is_not_ready_is_unavailable(serve, model, make_servable, fp32_spec):
    loading = make_servable(model.execute, [fp32_spec])
    loading.ready = False
    async with (
        serve(loading) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        with pytest.raises(InferenceServerException, match="takes no requests now") as failed:
            await client.infer("echo", infer_inputs(tritonclient.grpc.aio, ["FP32"]))
    assert failed.value.status() == "StatusCode.UNAVAILABLE"
    assert model.batches == []


async def test_a_model_that_raises_tells_the_client_nothing_and_the_log_everything(
    serve, model, make_servable, fp32_spec, caplog
):
    model.failure = RuntimeError("/secret/path")
    async with (
        serve(make_servable(model.execute, [fp32_spec])) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        with pytest.raises(InferenceServerException, match="model 'echo' failed") as failed:
            await client.infer("echo", infer_inputs(tritonclient.grpc.aio, ["FP32"]))
    assert failed.value.status() == "StatusCode.INTERNAL"
    assert "secret" not in str(failed.value)
    assert "/secret/path" in caplog.text


async def test_an_answer_without_a_promised_output_is_an_internal_error_that_stays_inside(
    serve, model, make_servable, fp32_spec, caplog
):
    broken = make_servable(model.execute, [fp32_spec])
    broken.outputs = (TensorSpec("missing", "FP32", (-1, 3)),)
    async with (
        serve(broken) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        wanted = [tritonclient.grpc.aio.InferRequestedOutput("missing")]
        with pytest.raises(InferenceServerException, match="its log says why") as failed:
            await client.infer("echo", infer_inputs(tritonclient.grpc.aio, ["FP32"]), outputs=wanted)
    assert failed.value.status() == "StatusCode.INTERNAL"
    assert "KeyError: 'missing'" in caplog.text


async def test_a_passed_deadline_is_reported_as_such_and_the_waiting_request_never_runs(
    serve, model, make_servable, fp32_spec, ledger
):
    model.gate.clear()
    async with (
        serve(make_servable(model.execute, [fp32_spec])) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        inputs = infer_inputs(tritonclient.grpc.aio, ["FP32"])
        running = asyncio.create_task(client.infer("echo", inputs, request_id="running"))
        await model.entered.wait()
        with pytest.raises(InferenceServerException) as failed:
            await client.infer("echo", inputs, request_id="late", client_timeout=0.05)
        await ledger.answered.wait()
        model.gate.set()
        await running
    assert failed.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert [one.id for batch in model.batches for one in batch] == ["running"]
    assert ledger.codes == {"DEADLINE_EXCEEDED": 1, "OK": 1}


async def test_a_message_over_the_limit_is_refused(serve, model, make_servable):
    wide = make_servable(model.execute, [TensorSpec("x", "FP32", (-1, -1))])
    entry = tritonclient.grpc.aio.InferInput("x", [1, 1000], "FP32")
    entry.set_data_from_numpy(np.zeros((1, 1000), np.float32))
    async with (
        serve(wide, max_message_bytes=1024) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        with pytest.raises(InferenceServerException) as failed:
            await client.infer("echo", [entry])
    assert failed.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


async def test_a_reply_over_the_limit_is_refused(serve, make_servable, fp32_spec):
    def execute(requests):
        return [InferReply({"fp32": Tensor("FP32", np.zeros((1, 1000), np.float32))}) for _ in requests]

    async with (
        serve(make_servable(execute, [fp32_spec]), max_message_bytes=1024) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        with pytest.raises(InferenceServerException) as failed:
            await client.infer("echo", infer_inputs(tritonclient.grpc.aio, ["FP32"]))
    assert failed.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


async def test_a_text_that_quotes_a_very_long_name_still_arrives(serve, model, make_servable, fp32_spec):
    async with (
        serve(make_servable(model.execute, [fp32_spec])) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        with pytest.raises(InferenceServerException, match="no model") as failed:
            await client.get_model_metadata("\U0001f600" * 16_000)
    assert failed.value.status() == str(grpc.StatusCode.NOT_FOUND)
