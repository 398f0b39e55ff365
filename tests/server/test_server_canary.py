"""Requests that name no version are divided by a hash of their id."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import tritonclient.grpc.aio
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from sidecar._pb import open_inference_pb2 as pb
from sidecar.server.batching import FAILURES, TRIAL_SECONDS, Batcher
from sidecar.server.lanes import Waiting
from sidecar.server.models import Models
from sidecar.settings import BatchingSettings
from sidecar.types import Cost, InferRequest, Servable, TensorSpec

SPEC = TensorSpec("fp32", "FP32", (-1, 3))
IDS = [f"request-{number}" for number in range(20_000)]
COST = Cost(1e-6, 1e-6, 1e-6, 8, 8)
WEIGHTS = st.floats(0, 1)


def batcher(version, canary=None, ready=True, key=""):
    servable = Servable("echo", version, "python", (SPEC,), (SPEC,), 8, None, ready, canary, key)
    return Batcher(servable, BatchingSettings(), None)


def models(canaries, steady=("1",), **more):
    return Models([
        *(batcher(version, **more) for version in steady),
        *(batcher(version, weight, **more) for version, weight in canaries.items()),
    ])  # fmt: skip


def route(split, ids, version=""):
    messages = [pb.ModelInferRequest(model_name="echo", model_version=version, id=id) for id in ids]
    return [split.route(message, message.id).servable.version for message in messages]


def bounds(weight, n):
    """Within which a binomial count of `n` stays but once in 10**8."""
    slack = 6 * math.sqrt(n * weight * (1 - weight)) + 12
    return n * weight - slack, n * weight + slack


@pytest.mark.parametrize("weight", [0.0, 0.001, 0.05, 0.5, 0.95, 1.0])
def test_a_canary_gets_its_share(weight):
    low, high = bounds(weight, len(IDS))
    assert low <= route(models({"2": weight}), IDS).count("2") <= high


@settings(deadline=None, max_examples=30)
@given(first=st.floats(0, 0.5), second=st.floats(0, 0.5), salt=st.text(max_size=5))
def test_every_version_gets_its_share_of_any_ids(first, second, salt):
    ids = [salt + id for id in IDS[:2000]]
    versions = route(models({"2": first, "3": second}), ids)
    for version, weight in (("1", 1 - first - second), ("2", first), ("3", second)):
        low, high = bounds(min(max(weight, 0.0), 1.0), len(ids))
        assert low <= versions.count(version) <= high


@settings(deadline=None)
@given(WEIGHTS, WEIGHTS, st.lists(st.text(max_size=20), max_size=50))
def test_a_weight_that_grows_moves_ids_to_the_canary_and_none_from_it(one, other, ids):
    before, after = (route(models({"2": weight}), ids) for weight in sorted([one, other]))
    assert all(late == "2" for early, late in zip(before, after, strict=True) if early == "2")


@settings(deadline=None)
@given(st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.5), st.lists(st.text(max_size=20), max_size=50))
def test_beside_other_canaries_too_no_id_leaves_the_one_that_grows(one, other, third, ids):
    before, after = (route(models({"2": weight, "3": third}), ids) for weight in sorted([one, other]))
    assert all(late == "2" for early, late in zip(before, after, strict=True) if early == "2")


def test_another_process_sends_the_same_ids_to_the_same_versions():
    here = route(models({"2": 0.3, "3": 0.2}), IDS[:200])
    program = (
        "from tests.server.test_server_canary import *;"
        "print(*route(models({'2': 0.3, '3': 0.2}), IDS[:200]), sep='')"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == "".join(here)


def test_two_models_divide_the_same_ids_differently():
    one, other = models({"2": 0.5}), models({"2": 0.5})
    for each in other:
        each.servable.name = "another"
    renamed = Models(other)
    messages = [pb.ModelInferRequest(model_name="another", id=id) for id in IDS[:1000]]
    apart = [renamed.route(message, message.id).servable.version for message in messages]
    low, high = bounds(0.5, 1000)
    assert low <= sum(a == b for a, b in zip(apart, route(one, IDS[:1000]), strict=True)) <= high


def test_an_explicit_version_is_that_version():
    split = models({"2": 0.5})
    assert set(route(split, IDS[:200], version="1")) == {"1"}
    assert set(route(split, IDS[:200], version="2")) == {"2"}


def test_a_canary_that_takes_no_requests_gets_none_and_gives_the_same_ids_back_later():
    split = models({"2": 0.5})
    canary = split.find("echo", "2").servable
    before = route(split, IDS[:200])
    canary.ready = False
    assert set(route(split, IDS[:200])) == {"1"}
    canary.ready = True
    assert route(split, IDS[:200]) == before


def test_a_canary_that_takes_no_requests_leaves_them_to_the_steady_version_and_not_to_another():
    split = models({"2": 0.3, "3": 0.3})
    before = route(split, IDS[:500])
    split.find("echo", "3").servable.ready = False
    assert route(split, IDS[:500]) == [{"3": "1"}.get(version, version) for version in before]


async def test_a_canary_that_fails_gets_nothing_until_a_batch_of_it_succeeds(
    serve, make_shelf, fp32_spec, front_end
):
    shelf = make_shelf([fp32_spec], echo=["1", "2"])
    shelf.canaries["2"] = 1.0
    entry = tritonclient.grpc.aio.InferInput("fp32", [1, 3], "FP32")
    entry.set_data_from_numpy(np.zeros((1, 3), np.float32))
    async with serve(repository=shelf, admin=True) as address:
        client = tritonclient.grpc.aio.InferenceServerClient(address)
        await client.load_model("echo")
        canary = dict(shelf.models)["2"]
        canary.failure = RuntimeError("broken")
        for _ in range(FAILURES):
            with pytest.raises(InferenceServerException, match="model 'echo' failed"):
                await client.infer("echo", [entry])
        assert (await client.infer("echo", [entry])).get_response().model_version == "1"
        canary.failure = None
        assert (await client.infer("echo", [entry])).get_response().model_version == "1"
        await client.infer("echo", [entry], "2")
        assert (await client.infer("echo", [entry])).get_response().model_version == "2"


def test_a_canary_that_fails_is_tried_once_a_minute_until_it_succeeds(ledger):
    now = 0.0
    servable = Servable("echo", "2", "python", (SPEC,), (SPEC,), 8, None, True, 1.0)
    canary = Batcher(servable, BatchingSettings(), ledger, lambda: now)
    split = Models([batcher("1"), canary])
    for _ in range(FAILURES):
        assert route(split, IDS[:1]) == ["2"]
        canary.report([], 0.0, None)
    assert route(split, IDS[:5]) == ["1"] * 5
    now = TRIAL_SECONDS
    assert route(split, IDS[:5]) == ["2", "1", "1", "1", "1"]
    now = 2 * TRIAL_SECONDS
    assert route(split, IDS[:2]) == ["2", "1"]
    canary.report([Waiting(InferRequest("", {}, 1), None, 0.0)], 0.0, COST)
    assert route(split, IDS[:5]) == ["2"] * 5


def test_shares_hold_when_a_canary_is_unloaded():
    split = models({"2": 0.3, "3": 0.3})
    split.remove("echo", "3")
    low, high = bounds(0.3, len(IDS))
    assert low <= route(split, IDS).count("2") <= high


def test_the_canary_is_not_the_highest_version_to_those_who_describe_it():
    split = models({"3": 0.9}, steady=("1", "2"))
    assert split.find("echo", "").servable.version == "2"


def test_canaries_alone_share_everything():
    split = models({"2": 0.25, "3": 0.25}, steady=())
    low, high = bounds(0.25, len(IDS))
    assert low <= route(split, IDS).count("2") <= high
    assert split.find("echo", "").servable.version == "3"


def test_a_named_parameter_is_hashed_instead_of_the_id():
    split = models({"2": 0.5}, key="tenant")
    for place, tenant in (("string_param", "blue"), ("int64_param", 7)):
        message = pb.ModelInferRequest(model_name="echo")
        setattr(message.parameters["tenant"], place, tenant)
        versions = set()
        for message.id in IDS[:50]:
            versions.add(split.route(message, message.id).servable.version)
        assert len(versions) == 1
    assert set(route(split, IDS[:50])) == {"1", "2"}


async def test_a_real_server_divides_what_a_real_client_sends(serve, make_shelf, fp32_spec):
    shelf = make_shelf([fp32_spec], echo=["1", "2"])
    shelf.canaries["2"] = 0.5
    async with serve(repository=shelf, admin=True) as address:
        client = tritonclient.grpc.aio.InferenceServerClient(address)
        await client.load_model("echo")
        entry = tritonclient.grpc.aio.InferInput("fp32", [1, 3], "FP32")
        entry.set_data_from_numpy(np.zeros((1, 3), np.float32))
        found = [
            (await client.infer("echo", [entry], request_id=id)).get_response().model_version
            for id in IDS[:40]
        ]
        nameless = {(await client.infer("echo", [entry])).get_response().model_version for _ in range(60)}
    assert found == route(models({"2": 0.5}), IDS[:40])
    assert nameless == {"1", "2"}
