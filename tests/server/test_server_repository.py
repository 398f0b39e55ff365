"""Versions come and go while clients are served."""

from __future__ import annotations

import asyncio
import json

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from sidecar.errors import InvalidInputError, LoadError, UnsupportedError
from sidecar.server.batching import Batcher
from sidecar.server.models import Models
from sidecar.server.repository import asked_policy, chosen_versions
from sidecar.types import Lineup, VersionPolicy


@pytest.fixture
def shelf(make_shelf, fp32_spec):
    return make_shelf([fp32_spec], echo=["1", "2", "10"], other=["1"])


@pytest.fixture
def connect(serve, shelf):
    """A server whose repository is `shelf`, with nothing loaded, and a client of it."""

    class Connected:
        async def __aenter__(self):
            self._server = serve(repository=shelf, admin=True)
            return tritonclient.grpc.aio.InferenceServerClient(await self._server.__aenter__())

        async def __aexit__(self, *error):
            await self._server.__aexit__(*error)

    return Connected


def infer(client, version="", id=""):
    entry = tritonclient.grpc.aio.InferInput("fp32", [1, 3], "FP32")
    entry.set_data_from_numpy(np.zeros((1, 3), np.float32))
    return client.infer("echo", [entry], version, request_id=id)


def policy(**kind):
    return json.dumps({"version_policy": kind})


async def states(client, ready=False):
    """The index; `ready` asks for what is ready only, which the client has no argument for."""
    index = await GRPCInferenceServiceStub(client._channel).RepositoryIndex(
        pb.RepositoryIndexRequest(ready=ready)
    )
    return {(each.name, each.version): (each.state, each.reason) for each in index.models}


async def test_the_index_lists_what_is_configured_and_what_of_it_is_ready(connect):
    async with connect() as client:
        await client.load_model("echo", config=policy(specific={"versions": [2]}))
        everything = await states(client)
        ready = await states(client, ready=True)
    unloaded = ("UNAVAILABLE", "unloaded")
    assert everything == {
        ("echo", "1"): unloaded, ("echo", "2"): ("READY", ""), ("echo", "10"): unloaded, ("other", "1"): unloaded,
    }  # fmt: skip
    assert ready == {("echo", "2"): ("READY", "")}


async def test_loading_without_a_policy_loads_all_versions_and_the_highest_answers(connect):
    async with connect() as client:
        await client.load_model("echo")
        reply = await infer(client)
        assert await client.is_model_ready("echo", "1")
    assert reply.get_response().model_version == "10"


async def test_a_policy_unloads_what_it_leaves_out(connect, shelf):
    async with connect() as client:
        await client.load_model("echo", config=policy(latest={"num_versions": 2}))
        assert {version for _, version in await states(client, ready=True)} == {"2", "10"}
        await client.load_model("echo", config=policy(specific={"versions": ["1"]}))
        assert {version for _, version in await states(client, ready=True)} == {"1"}
        assert (await infer(client)).get_response().model_version == "1"
        assert {each.version for each in shelf.released} == {"2", "10"}


async def test_unloading_answers_what_waits_and_then_releases(connect, shelf):
    async with connect() as client:
        await client.load_model("echo", config=policy(specific={"versions": ["1"]}))
        _, model = shelf.models[0]
        model.gate.clear()
        running = asyncio.create_task(infer(client, id="running"))
        await model.entered.wait()
        unloading = asyncio.create_task(client.unload_model("echo"))
        while (await states(client))["echo", "1"][0] != "UNLOADING":
            await asyncio.sleep(0)
        with pytest.raises(InferenceServerException, match="no model 'echo', served are none"):
            await infer(client)
        assert shelf.released == []
        model.gate.set()
        assert (await running).get_response().id == "running"
        await unloading
        assert [each.version for each in shelf.released] == ["1"]
        assert (await states(client))["echo", "1"] == ("UNAVAILABLE", "unloaded")


async def test_a_version_is_closed_only_after_what_other_threads_found_is_queued(connect, monkeypatch):
    order, settle, close = [], Models.settle, Batcher.close
    monkeypatch.setattr(Models, "settle", lambda models: (order.append("settle"), settle(models))[1])
    monkeypatch.setattr(Batcher, "close", lambda batcher: (order.append("close"), close(batcher))[1])
    async with connect() as client:
        await client.load_model("echo", config=policy(specific={"versions": ["1"]}))
        order.clear()
        await client.unload_model("echo")
        assert order == ["settle", "close"]


async def test_while_a_version_loads_the_one_before_answers(connect, shelf):
    async with connect() as client:
        await client.load_model("echo", config=policy(specific={"versions": ["1"]}))
        shelf.entered.clear()
        shelf.gate.clear()
        loading = asyncio.create_task(client.load_model("echo", config=policy(specific={"versions": ["2"]})))
        await shelf.entered.wait()
        assert (await states(client))["echo", "2"][0] == "LOADING"
        assert (await infer(client)).get_response().model_version == "1"
        shelf.gate.set()
        await loading
        assert (await infer(client)).get_response().model_version == "2"


async def test_swapping_under_load_loses_no_request(connect, shelf):
    async def send(client, worker, done):
        versions = []
        while not done.is_set():
            versions.append((await infer(client, id=str(worker))).get_response().model_version)
        return versions

    async with connect() as client:
        await client.load_model("echo", config=policy(specific={"versions": ["1"]}))
        done = asyncio.Event()
        workers = [asyncio.create_task(send(client, number, done)) for number in range(8)]
        for version in "21212":
            await client.load_model("echo", config=policy(specific={"versions": [version]}))
            await infer(client)
        done.set()
        answered = [version for versions in await asyncio.gather(*workers) for version in versions]
    assert set(answered) == {"1", "2"}
    executed = sum(len(batch) for _, model in shelf.models for batch in model.batches)
    assert executed == len(answered) + 5
    assert len(shelf.released) == 5


async def test_a_version_that_cannot_be_loaded_takes_no_traffic_and_the_one_before_goes_on(connect, shelf):
    async with connect() as client:
        await client.load_model("echo", config=policy(specific={"versions": ["1"]}))
        shelf.failure = LoadError("it failed its self-check")
        for _ in range(2):
            with pytest.raises(InferenceServerException, match="failed its self-check") as failed:
                await client.load_model("echo")
            assert failed.value.status() == "StatusCode.FAILED_PRECONDITION"
        assert (await infer(client)).get_response().model_version == "1"
        assert (await states(client))["echo", "1"] == ("READY", "it failed its self-check")
        assert shelf.released == []


async def test_all_versions_are_loaded_or_none(connect, shelf):
    load, failures = shelf.load, {"10": LoadError("no")}

    async def some(model, version):
        shelf.failure = failures.get(version)
        return await load(model, version)

    shelf.load = some
    async with connect() as client:
        with pytest.raises(InferenceServerException, match="no"):
            await client.load_model("echo")
        assert await states(client, ready=True) == {}
        assert {each.version for each in shelf.released} == {"1", "2"}


async def test_an_error_nobody_foresaw_leaves_the_index_truthful_and_the_inside_untold(connect, shelf):
    async with connect() as client:
        shelf.failure = RuntimeError("/secret")
        with pytest.raises(InferenceServerException, match="its log says why"):
            await client.load_model("other")
        assert (await states(client))["other", "1"] == ("UNAVAILABLE", "the last load did not finish")
        shelf.failure = None
        await client.load_model("other")
        assert (await states(client))["other", "1"] == ("READY", "")


async def test_a_client_that_gives_up_does_not_stop_a_load(connect, shelf):
    async with connect() as client:
        shelf.gate.clear()
        with pytest.raises(InferenceServerException):
            await client.load_model("other", client_timeout=0.05)
        assert shelf.entered.is_set()
        shelf.gate.set()
        while ("other", "1") not in await states(client, ready=True):
            await asyncio.sleep(0)


async def test_a_server_that_stops_finishes_a_load_but_serves_it_no_more(serve, shelf):
    async with serve(repository=shelf, admin=True, grace_seconds=0.5) as address:
        client = tritonclient.grpc.aio.InferenceServerClient(address)
        shelf.gate.clear()
        loading = asyncio.create_task(client.load_model("other"))
        await shelf.entered.wait()
        asyncio.get_running_loop().call_later(0.6, shelf.gate.set)
    with pytest.raises(InferenceServerException):
        await loading
    assert [each.name for each in shelf.released] == ["other"]
    assert not shelf.released[0].ready


async def test_health_follows_what_is_loaded(connect, shelf):
    async with connect() as client:
        await client.load_model("other")
        assert await client.is_server_ready()
        await client.unload_model("other")
        assert await client.is_server_ready()


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code().name, refused.value.details()


async def test_what_is_not_configured_or_not_supported_is_refused_with_a_reason(connect):
    async with connect() as client:
        stub = GRPCInferenceServiceStub(client._channel)
        load = pb.RepositoryModelLoadRequest
        assert await refusal(stub.RepositoryModelLoad(load(model_name="nope"))) == (
            "NOT_FOUND", "no model 'nope' is configured, there are 'echo', 'other'",
        )  # fmt: skip
        assert await refusal(stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest())) == (
            "NOT_FOUND", "no model '' is configured, there are 'echo', 'other'",
        )  # fmt: skip
        named = load(repository_name="r", model_name="echo")
        assert (await refusal(stub.RepositoryModelLoad(named)))[0] == "UNIMPLEMENTED"
        index = pb.RepositoryIndexRequest(repository_name="r")
        assert (await refusal(stub.RepositoryIndex(index)))[0] == "UNIMPLEMENTED"
        files = load(model_name="echo")
        files.parameters["file:1/model.onnx"].bytes_param = b""
        assert await refusal(stub.RepositoryModelLoad(files)) == (
            "UNIMPLEMENTED", "parameters 'file:1/model.onnx' are not supported, only 'config' is",
        )  # fmt: skip


async def test_a_server_without_a_repository_says_so(serve):
    async with serve(admin=True) as address, grpc.aio.insecure_channel(address) as channel:
        call = GRPCInferenceServiceStub(channel).RepositoryModelLoad(
            pb.RepositoryModelLoadRequest(model_name="echo")
        )
        assert await refusal(call) == ("UNIMPLEMENTED", "this server cannot load or unload models")


async def test_kserves_form_of_a_load_is_understood_and_answered(serve, shelf):
    async with serve(repository=shelf, admin=True) as address, grpc.aio.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        loaded = await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(repository_name="other"))
        unloaded = await stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(repository_name="other"))
    assert (loaded.model_name, loaded.isLoaded) == ("other", True)
    assert (unloaded.model_name, unloaded.isUnloaded) == ("other", True)


def chosen(known, text, canaries=()):
    parameters = {} if text is None else {"config": pb.ModelRepositoryParameter(string_param=text)}
    lineup = Lineup(tuple(known), frozenset(canaries), VersionPolicy(latest=1))
    return list(chosen_versions(lineup, asked_policy(parameters)))


@pytest.mark.parametrize(
    ("kind", "versions"),
    [
        ({"all": {}}, ["beta", "9", "10"]),
        ({"latest": {}}, ["10"]),
        ({"latest": {"num_versions": 2}}, ["9", "10"]),
        ({"latest": {"num_versions": 99}}, ["beta", "9", "10"]),
        ({"specific": {"versions": ["beta", 9, "9"]}}, ["beta", "9"]),
    ],
)
def test_a_policy_chooses_versions(kind, versions):
    assert chosen(["10", "9", "beta"], policy(**kind)) == versions


def test_without_a_policy_the_models_own_chooses():
    assert chosen(["10", "9", "beta"], None) == ["10"]


@pytest.mark.parametrize(
    ("kind", "versions"),
    [
        ({"latest": {}}, ["2", "3"]),
        ({"latest": {"num_versions": 2}}, ["1", "2", "3"]),
        ({"specific": {"versions": ["1"]}}, ["1"]),
        ({"all": {}}, ["1", "2", "3"]),
    ],
)
def test_a_canary_is_served_beside_the_latest_and_is_none_of_them(kind, versions):
    assert chosen(["1", "2", "3"], policy(**kind), canaries=["3"]) == versions


@pytest.mark.parametrize("text", ['{"max_batch_size": 4}', '{"max_batch_size": {"a": 1}}'])
def test_other_configuration_is_refused(text):
    with pytest.raises((UnsupportedError, InvalidInputError), match="version_policy"):
        chosen(["1"], text)


@pytest.mark.parametrize("versions", [["7"], ["1", "7"]])
def test_versions_that_are_not_there_are_named(versions):
    with pytest.raises(InvalidInputError, match="are asked for, there are '1'"):
        chosen(["1"], policy(specific={"versions": versions}))


def test_a_policy_that_names_no_version_is_refused():
    with pytest.raises(InvalidInputError, match="config names no version"):
        chosen(["1"], policy(specific={"versions": []}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["version_policy", "all", "latest", "specific", "versions", "num_versions", "x"]),
            inner,
            max_size=3,
        )
    ),
)


@given(st.text(max_size=20) | JSON.map(json.dumps))
def test_whatever_stands_in_a_config_it_chooses_known_versions_or_is_refused(text):
    try:
        versions = chosen(["1", "2"], text)
    except (InvalidInputError, UnsupportedError):
        return
    assert versions
    assert set(versions) <= {"1", "2"}


async def test_the_observer_is_told_each_state_and_that_a_served_version_stays_ready(serve, shelf, ledger):
    async with serve(repository=shelf, admin=True) as address:
        client = tritonclient.grpc.aio.InferenceServerClient(address)
        only = policy(specific={"versions": ["1"]})
        await client.load_model("echo", config=only)
        await client.load_model("echo", config=only)
        shelf.failure = LoadError("no")
        with pytest.raises(InferenceServerException):
            await client.load_model("echo", config=only)
        await client.unload_model("echo")
    told = [state for _, version, state in ledger.states if version == "1"]
    changes = [state for state, before in zip(told, [None, *told], strict=False) if state != before]
    assert changes == ["LOADING", "READY", "UNLOADING", "UNAVAILABLE"]


async def test_a_version_that_was_refused_at_the_start_says_why_in_the_index(serve, shelf):
    shelf.refused["echo", "2"] = "it failed its self-check"
    async with serve(repository=shelf, admin=True) as address:
        client = tritonclient.grpc.aio.InferenceServerClient(address)
        assert (await states(client))["echo", "2"] == ("UNAVAILABLE", "it failed its self-check")


async def test_what_is_served_can_be_unloaded_when_it_is_gone_from_the_repository(serve, shelf):
    async with serve(repository=shelf, admin=True) as address:
        client = tritonclient.grpc.aio.InferenceServerClient(address)
        await client.load_model("other")
        shelf._versions = {}
        assert await states(client) == {("other", "1"): ("READY", "")}
        await client.unload_model("other")
        assert await states(client) == {}
