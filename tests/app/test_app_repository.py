"""A repository folder served: what is in it, what comes later, and what fails."""

from __future__ import annotations

import gc
import json
import shutil
import weakref

import grpc
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from sidecar import cli
from sidecar._pb import open_inference_pb2 as pb
from sidecar.app import Sidecar
from sidecar.demo.model import build
from sidecar.errors import ModelError
from tests.runtime.exports import TOKENS, WORDS

PIXELS = np.ones((1, 64), np.float32)

DIGITS_TOML = """
source = "sidecar.demo.model:build"
inputs = [{name = "pixels", datatype = "FP32", shape = [-1, 64]}]
outputs = [{name = "logits", datatype = "FP32", shape = [-1, 10]}]
threads = 1
batching = {max_rows = 8}
"""
WORDS_TOML = f"""
inputs = [{{name = "x", datatype = "INT64", shape = [-1, {TOKENS}]}}]
outputs = [{{name = "logits", datatype = "FP32", shape = [-1, 10]}}]
threads = 1
batching = {{max_rows = 8}}
"""


def add(folder, version):
    """A version of the digits with weights of its own, which are returned."""
    torch.manual_seed(int(version))
    model = build().eval()
    (folder / version).mkdir(parents=True)
    save_file(model.state_dict(), folder / version / "model.safetensors")
    return model


@pytest.fixture
def digits(tmp_path):
    """A repository of two versions of the digits."""
    folder = tmp_path / "models" / "digits"
    add(folder, "1"), add(folder, "2")
    (folder / "model.toml").write_text(DIGITS_TOML)
    return folder


@pytest.fixture
def repository(configure):
    """Settings of a repository, admin calls allowed, and no [[models]]."""

    def repository(path, **sections):
        given = {"path": str(path), "trust": True}
        configured = configure(repository=given, server={"admin": True}, **sections)
        return configured.model_copy(update={"models": ()})

    return repository


def load(client, name="digits", **policy):
    request = pb.RepositoryModelLoadRequest(model_name=name)
    if policy:
        request.parameters["config"].string_param = json.dumps({"version_policy": policy})
    return client._stub.RepositoryModelLoad(request, timeout=60)


async def index(client):
    reply = await client._stub.RepositoryIndex(pb.RepositoryIndexRequest())
    return {(each.name, each.version): each.state for each in reply.models}


async def test_the_highest_version_is_served_and_a_new_one_once_it_is_asked_for(serve, repository, digits):
    async with serve(repository(digits.parent)) as client:
        assert await index(client) == {("digits", "1"): "UNAVAILABLE", ("digits", "2"): "READY"}
        third = add(digits, "3")
        assert (await index(client))["digits", "3"] == "UNAVAILABLE"
        await load(client)
        answer = await client.infer(PIXELS)
        found = await index(client)
        metrics = (await client.http.get("/metrics")).text
    assert found == {("digits", "1"): "UNAVAILABLE", ("digits", "2"): "UNAVAILABLE", ("digits", "3"): "READY"}
    with torch.inference_mode():
        assert np.allclose(answer, third(torch.from_numpy(PIXELS)).numpy(), rtol=1e-4, atol=1e-5)
    for line in (
        'sidecar_requests_total{code="OK",model="digits",version="3"} 1.0',
        'sidecar_model_state{model="digits",state="READY",version="3"} 1.0',
        'sidecar_model_state{model="digits",state="UNAVAILABLE",version="2"} 1.0',
    ):
        assert line in metrics
    weights = 4 * sum(tensor.numel() for tensor in third.state_dict().values())
    assert f'sidecar_model_weights_bytes{{model="digits",version="3"}} {weights:.6e}' in metrics
    assert 'sidecar_model_load_seconds{model="digits",version="3"}' in metrics


async def test_a_load_reads_the_settings_again(serve, repository, digits):
    async with serve(repository(digits.parent)) as client:
        (digits / "model.toml").write_text(DIGITS_TOML + 'canary = {2 = 0.5}\ncanary_key = "tenant"')
        await load(client)
        assert await index(client) == {("digits", "1"): "READY", ("digits", "2"): "READY"}
        message = pb.ModelInferRequest(model_name="digits")
        message.inputs.add(name="pixels", datatype="FP32", shape=PIXELS.shape)
        message.raw_input_contents.append(PIXELS.tobytes())
        versions = {}
        for tenant in range(20):
            message.parameters["tenant"].int64_param = tenant
            for attempt in range(2):
                message.id = f"{tenant}-{attempt}"
                reply = await client._stub.ModelInfer(message, timeout=60)
                versions.setdefault(tenant, set()).add(reply.model_version)
    assert {len(seen) for seen in versions.values()} == {1}
    assert set.union(*versions.values()) == {"1", "2"}


async def test_another_model_that_is_broken_stands_in_nobodys_way(serve, repository, digits):
    async with serve(repository(digits.parent)) as client:
        shutil.copytree(digits, digits.parent / "broken")
        (digits.parent / "broken" / "model.toml").write_text("nonsense")
        await load(client, specific={"versions": ["1"]})
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await load(client, "broken")
        assert (await index(client))["digits", "1"] == "READY"
        await client.infer(PIXELS)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.value.details() == "model 'broken' cannot be loaded; the log says why"


@pytest.mark.parametrize("name", ["..", "digits/1", "/etc", "../models/digits", ".", ""])
async def test_no_name_leads_out_of_the_repository(serve, repository, digits, name):
    async with serve(repository(digits.parent)) as client:
        with pytest.raises(grpc.aio.AioRpcError, match="is configured, there are 'digits'") as refused:
            await load(client, name)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_what_is_served_goes_on_when_its_folder_is_gone(serve, repository, digits):
    async with serve(repository(digits.parent)) as client:
        shutil.rmtree(digits)
        await client.infer(PIXELS)
        assert await index(client) == {("digits", "2"): "READY"}
        await client._stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="digits"))
        assert await index(client) == {}


async def test_an_empty_repository_is_served_and_filled_later(serve, repository, digits, tmp_path):
    (tmp_path / "empty").mkdir()
    sidecar = Sidecar(repository(tmp_path / "empty"), lambda: 0.0)
    await sidecar.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel:
            from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub

            stub = GRPCInferenceServiceStub(channel)
            digits.rename(tmp_path / "empty" / "digits")
            await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="digits"))
            assert (await stub.ModelReady(pb.ModelReadyRequest(name="digits", version="2"))).ready
    finally:
        await sidecar.stop()


def test_check_takes_a_repository_without_a_file_of_settings(tmp_path, exported):
    (tmp_path / "words" / "1").mkdir(parents=True)
    (tmp_path / "words" / "model.toml").write_text(WORDS_TOML)
    shutil.copy(exported("pre-norm"), tmp_path / "words" / "1" / "model.onnx")
    said = CliRunner().invoke(cli.app, ["check", "--repository", str(tmp_path)]).output
    assert "words version 1: loaded, ran, self-check passed" in said
    assert WORDS


class Hungry(torch.nn.Module):
    """Notes that it was made, and then there is no more memory."""

    made: weakref.ref[torch.nn.Module] | None = None
    error: type[BaseException] = MemoryError

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1000))
        self.myself = self
        Hungry.made = weakref.ref(self)
        raise Hungry.error("tried to allocate 1 EiB")


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
async def test_a_load_without_memory_is_refused_and_gives_back_what_it_took(
    *, serve, repository, digits, monkeypatch, caplog, error
):
    monkeypatch.setattr(Hungry, "error", error)
    async with serve(repository(digits.parent)) as client:
        hungry = DIGITS_TOML.replace("sidecar.demo.model:build", f"{__name__}:Hungry")
        (digits / "model.toml").write_text(hungry)
        gc.disable()
        try:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await load(client)
            assert Hungry.made() is None
        finally:
            gc.enable()
        await client.infer(PIXELS)
        assert await index(client) == {("digits", "1"): "UNAVAILABLE", ("digits", "2"): "READY"}
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.value.details() == "model 'digits' version '2' cannot be loaded; the log says why"
    assert "model digits does not fit into memory: tried to allocate 1 EiB" in caplog.text


def test_a_start_without_memory_ends_with_a_message(repository, digits):
    (digits / "model.toml").write_text(DIGITS_TOML.replace("sidecar.demo.model:build", f"{__name__}:Hungry"))
    with pytest.raises(ModelError, match="model digits does not fit into memory: tried to allocate"):
        Sidecar(repository(digits.parent), lambda: 0.0)


async def test_taps_without_memory_leave_the_model_served_plain(serve, configure, monkeypatch):
    def instrument(*_):
        raise torch.OutOfMemoryError("no room for a second graph")

    monkeypatch.setattr("sidecar.runtime.torch.TorchRuntime.instrument", instrument)
    async with serve(configure()) as client:
        await client.infer(PIXELS)
        assert (
            client.model.detail
            == "the telemetry of digits does not fit into memory: no room for a second graph"
        )


def digits_twice(configure, **changes):
    """Version 2 of the digits has `changes`."""
    configured = configure(server={"admin": True})
    (first,) = configured.models
    second = first.model_copy(update={"version": "2", **changes})
    return configured.model_copy(update={"models": (first, second)})


BROKEN = {"source": "tests.app.factories:Noisy", "taps": ("layer",)}


async def test_at_the_start_a_version_that_fails_its_self_check_leaves_traffic_to_another(serve, configure):
    async with serve(digits_twice(configure, **BROKEN)) as client:
        reply = await client._stub.RepositoryIndex(pb.RepositoryIndexRequest())
        await client.infer(PIXELS)
        assert [model.settings.version for model in client.sidecar.models] == ["1"]
    assert [(each.version, each.state, each.reason) for each in reply.models] == [
        ("1", "READY", ""),
        ("2", "UNAVAILABLE", "failed its self-check and takes no traffic; the log says why"),
    ]


async def test_at_the_start_versions_that_all_fail_are_served_plain(serve, configure):
    configured = digits_twice(configure, **BROKEN)
    first, second = configured.models
    both = (first.model_copy(update=BROKEN), second)
    async with serve(configured.model_copy(update={"models": both})) as client:
        await client.infer(PIXELS)
        assert [model.observation for model in client.sidecar.models] == [None, None]
