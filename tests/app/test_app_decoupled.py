"""Decoupled torch models, from their settings to what their taps saw of a whole generation."""

from __future__ import annotations

import re

import grpc
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from sidecar.baseline.recording import record_baseline
from sidecar.costs import modules
from sidecar.errors import ConfigError, InferenceError
from sidecar.folder import ModelFolder
from sidecar.model import Model
from sidecar.runtime.attached import AttachedRuntime
from sidecar.runtime.decoupled import MOST_REPLIES


class Rolling(nn.Module):
    """x [4] and how often -> layer(x), layer(layer(x)), ... all in the same memory."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 4)

    def forward(self, x, often):
        state = x.clone()
        for _ in range(int(often)):
            state.copy_(self.layer(state))
            yield state


class Endless(Rolling):
    def forward(self, x, often):
        while True:
            x = self.layer(x)
            yield x


class EndsWithClients(Rolling):
    """As many as asked for; 0 is without end."""

    def forward(self, x, often):
        while True:
            yield from super().forward(x, often)
            yield from () if often else super().forward(x, 1)
            if often:
                return


class Maps(Rolling):
    """An iterator that is no generator, of mappings, of a sequence whose end is not known."""

    def forward(self, x, often):
        return map(self.named, [x] * int(often))

    def named(self, x):
        return {"y": self.layer(x)}


class Last(Rolling):
    """Returns its one reply."""

    def forward(self, x, often):
        return self.layer(x)
        yield


class Silent(Rolling):
    """No reply at all."""

    def forward(self, x, often):
        self.layer(x)
        return
        yield


class Noisy(Rolling):
    def forward(self, x, often):
        yield self.layer(x)
        yield self.layer(x) + torch.rand(())


class Longer(Rolling):
    """One reply more at each run."""

    runs = 0

    def forward(self, x, often):
        Longer.runs += 1
        for _ in range(Longer.runs):
            yield self.layer(x)


class Plain(Rolling):
    """One reply, as models that are not decoupled give it."""

    def forward(self, x, often):
        return self.layer(x)


X, OFTEN, Y = (
    {"name": "x", "datatype": "FP32", "shape": [4]},
    {"name": "often", "datatype": "INT64", "shape": [1]},
    {"name": "y", "datatype": "FP32", "shape": [4]},
)


@pytest.fixture
def decoupled(configure):
    """`decoupled(Model)`: settings of one such model."""

    def decoupled(model=Rolling, more=None, **sections):
        return configure(
            {
                "source": f"{__name__}:{model.__name__}", "inputs": [X, OFTEN], "outputs": [Y], "taps": ["layer"],
                "decoupled": True, "batching": {"max_rows": 0}, **(more or {}),
            },
            **sections,
        )  # fmt: skip

    return decoupled


def given(number):
    return np.random.default_rng(number).standard_normal(4, np.float32)


def message(often, number=0):
    request = pb.ModelInferRequest(model_name="digits", id=f"r{number}")
    request.inputs.add(name="x", datatype="FP32", shape=[4])
    request.inputs.add(name="often", datatype="INT64", shape=[1])
    request.raw_input_contents.extend([given(number).tobytes(), np.int64(often).tobytes()])
    return request


async def replies_to(client, requests):
    """By id: the values of each reply."""
    found = {request.id: [] for request in requests}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{client.sidecar.grpc_port}") as channel:
        async for reply in GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(requests)):
            assert reply.error_message == ""
            response = reply.infer_response
            found[response.id].append(np.frombuffer(response.raw_output_contents[0], np.float32))
    return found


@pytest.mark.parametrize("instances", [1, 3])
@pytest.mark.parametrize("observed", [True, False], ids=["observed", "plain"])
async def test_replies_are_bit_for_bit_those_of_the_model_called_directly(
    serve, decoupled, observed, instances
):
    configured = decoupled(more={"instances": instances}, capture={"enabled": observed})
    requests = [message(often, often) for often in range(12)]
    async with serve(configured) as client:
        found = await replies_to(client, requests)
    with torch.inference_mode():
        for often in range(12):
            direct = [y.numpy().copy() for y in Rolling()(torch.from_numpy(given(often)), often)]
            assert [y.tobytes() for y in found[f"r{often}"]] == [y.tobytes() for y in direct]


async def test_a_whole_generation_is_one_observed_request_and_every_forward_pass_of_it_is_seen(
    serve, decoupled
):
    async with serve(decoupled()) as client:
        await replies_to(client, [message(often, often) for often in (1, 2, 5, 0, 7)])
    (tap,) = client.model.observation.taps
    counts = client.model.observation.timeline.total(tap).counts
    assert client.recorder.sampled == 5
    assert counts.requests == 4, "the one without a reply ran no layer"
    assert counts.values == 4 * (1 + 2 + 5 + 0 + 7)
    assert client.recorder.guard.failures.total() == 0


async def test_a_client_that_leaves_ends_the_generation_and_its_observation(serve, decoupled):
    async with serve(decoupled(EndsWithClients)) as client:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{client.sidecar.grpc_port}") as channel:
            stream = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([message(0)]))
            await stream.read()
            stream.cancel()
        assert len((await replies_to(client, [message(3, 1)]))["r1"]) == 3
        assert (client.recorder.sampled, client.recorder.dropped.total()) == (2, 0)
        counts = await client.metrics()
    assert counts("sidecar_requests_total", code="CANCELLED") == 1
    assert counts("sidecar_requests_total", code="OK") == 1


@pytest.mark.parametrize("model", [Maps, Last])
async def test_an_iterator_or_a_returned_reply_will_do(serve, decoupled, model):
    async with serve(decoupled(model)) as client:
        (reply,) = (await replies_to(client, [message(1)]))["r0"]
        assert client.model.detail == ""
    with torch.inference_mode():
        assert reply.tobytes() == model().layer(torch.from_numpy(given(0))).numpy().tobytes()


async def test_a_model_may_give_no_reply(serve, decoupled):
    async with serve(decoupled(Silent)) as client:
        assert await replies_to(client, [message(1)]) == {"r0": []}
        assert client.recorder.sampled == 1


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Noisy, r"output y\[1\] of the instrumented variant differs by"),
        (Longer, "the instrumented variant gives 4 outputs in the self-check, the plain one 5"),
    ],
)
def test_the_self_check_compares_all_replies_and_their_number(decoupled, model, why):
    configured = decoupled(model)
    refused = Model(configured.models[0], configured, lambda: 0.0)
    assert refused.observation is None
    assert re.search(why, refused.detail)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Plain, "returned Tensor, and a decoupled one must return a generator or iterator"),
        (Endless, f"gave more than {MOST_REPLIES} replies"),
    ],
)
def test_a_model_that_is_not_decoupled_or_never_ends_does_not_load(decoupled, model, why):
    configured = decoupled(model)
    with pytest.raises(InferenceError, match=why):
        Model(configured.models[0], configured, lambda: 0.0)


def test_a_baseline_is_recorded_from_whole_generations(decoupled, tmp_path):
    configured = decoupled()
    path = tmp_path / "requests.npz"
    np.savez(path, x=np.ones((5, 4), np.float32), often=np.arange(5)[:, None])
    reference = record_baseline(configured.models[0], configured, path, lambda: 0.0)
    (sketch,) = reference.sketches
    assert sketch.counts.values == 4 * (0 + 1 + 2 + 3 + 4)


def test_taps_of_a_decoupled_model_can_be_listed_with_their_price(decoupled):
    configured = decoupled()
    (found,) = modules(configured.models[0], configured.capture)
    assert (found.module, found.shape, found.chosen) == ("layer", (4,), True)


async def test_kept_inputs_run_again_through_the_whole_generation(serve, decoupled):
    async with serve(decoupled(console={"keep_inputs": 4})) as client:
        await replies_to(client, [message(3)])
        replay = client.model.observation.replay
        (kept,) = replay.kept()
        (tap,) = client.model.observation.taps
        assert replay.activation(tap, kept).size == 3 * 4


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"runtime": "onnx", "source": None, "path": "m.onnx"},
            "decoupled goes with a model of runtime torch",
        ),
        ({"source": None, "path": "m.pt2", "trust": True}, "decoupled goes with a model of runtime torch"),
        ({"compile": True}, "decoupled does not go with compile"),
        ({"batching": {"max_rows": 8}}, "decoupled needs batching.max_rows = 0"),
        ({"batching": {}}, "decoupled needs batching.max_rows = 0"),
        (
            {"batching": {"max_rows": 0, "ragged_buckets": [8]}},
            "ragged_buckets needs batching.max_rows above 0",
        ),
    ],
)
def test_settings_that_no_decoupled_model_can_have_are_refused(decoupled, changes, why):
    with pytest.raises(ConfigError, match=why):
        decoupled(more=changes)


def test_a_version_of_a_repository_that_no_factory_makes_cannot_be_decoupled(tmp_path):
    for version in ("1", "2"):
        (tmp_path / "m" / version).mkdir(parents=True)
    save_file({"layer.weight": torch.zeros(1)}, tmp_path / "m/1/model.safetensors")
    (tmp_path / "m/2/model.onnx").touch()
    (tmp_path / "m/model.toml").write_text(
        'source = "a:b"\ndecoupled = true\nbatching = { max_rows = 0 }\n'
        'inputs = [{name = "x", datatype = "FP32", shape = [4]}]\n'
        'outputs = [{name = "y", datatype = "FP32", shape = [4]}]\n'
    )
    folder = ModelFolder(tmp_path, "m", trust=True)
    assert folder.version("1").decoupled
    with pytest.raises(ConfigError, match="gives one reply to a request, and decoupled is true"):
        folder.version("2")


def test_a_model_that_is_attached_to_cannot_be_decoupled(decoupled):
    with pytest.raises(ConfigError, match="decoupled is true"):
        AttachedRuntime(decoupled().models[0], Rolling().eval())
