"""What drives a neuron, asked of a served model and compared with hooks on the same model."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch

from sidecar import runtime
from sidecar.observation import observe
from sidecar.types import KeptInput, Tensor
from tests.runtime.graphs import model, node, save, square

MODULE, UNIT = "blocks.3", 17


def direct(model, kept):
    """The layer's output for the pixels of a kept input, by a hook put there by hand."""
    seen = []
    module = model.runtime._model.get_submodule(MODULE)
    handle = module.register_forward_hook(lambda _module, _args, output: seen.append(output))
    with torch.inference_mode():
        model.runtime._model(torch.from_numpy(kept.inputs["pixels"].array))
    handle.remove()
    return seen[0].numpy()


async def settled(client, requests=120, at_once=20):
    await client.send(requests, at_once)
    client.model.observation.drainer.stop(5.0)


async def ask(client, path, **fields):
    reply = await client.http.get(f"/api/v1/{path}", params={"layer": 3, "channel": UNIT, **fields})
    return reply.status_code, reply.json()


async def test_inputs_that_are_run_again_give_what_a_hook_sees(configure, serve):
    async with serve(configure(console={"keep_inputs": 32, "budget": 64})) as client:
        await settled(client)
        replay = client.model.observation.replay
        tap = client.model.observation.taps[3]
        kept = replay.kept()
        assert len(kept) == 32
        for one in kept[:5]:
            assert isinstance(one, KeptInput)
            assert np.allclose(replay.activation(tap, one), direct(client.model, one), rtol=1e-5, atol=1e-6)
        status, answer = await ask(client, "inputs")
        assert status == 200, answer
        values = [direct(client.model, one)[..., UNIT] for one in kept]
        assert (answer["kept"], answer["rerun"]) == (32, 32)
        assert answer["histogram"]["total"] == sum(one.size for one in values)
        assert answer["histogram"]["quantiles"]["p50"] == pytest.approx(
            np.median(np.concatenate([one.ravel() for one in values])), rel=1e-4, abs=1e-5
        )
        largest = sorted((np.abs(one).max() for one in values), reverse=True)[:8]
        assert [abs(one["peak"]) for one in answer["inputs"]] == pytest.approx(largest, rel=1e-4)
        shown = answer["inputs"][0]
        assert max(map(abs, shown["positions"])) == pytest.approx(abs(shown["peak"]), rel=1e-4)
        assert [(one["name"], one["shape"], len(one["numbers"])) for one in shown["tensors"]] == [
            ("pixels", [64], 64)
        ]


async def test_the_strongest_requests_are_those_of_the_largest_magnitude(configure, serve):
    async with serve(configure(drift={"keep_request_ids": "plain"})) as client:
        await settled(client)
        status, answer = await ask(client, "drivers")
        assert status == 200, answer
        assert answer["detail"] == ""
        assert answer["observed"] == 120
        sizes = [abs(one["value"]) for one in answer["requests"]]
        assert sizes == sorted(sizes, reverse=True)
        total = client.model.observation.timeline.total(client.model.observation.taps[3])
        assert sizes[0] == pytest.approx(total.channels.absmax[UNIT], rel=1e-6)
        assert all(one["id"].startswith("r") for one in answer["requests"])


async def test_no_inputs_are_kept_unless_the_settings_say_so(configure, serve):
    async with serve(configure()) as client:
        await settled(client, 20)
        assert client.recorder.inputs is None
        _, answer = await ask(client, "inputs")
        assert "console.keep_inputs is 0" in answer["detail"]
        assert answer["inputs"] == []


async def test_too_few_requests_or_inputs_are_withheld(configure, serve):
    async with serve(configure(console={"keep_inputs": 32})) as client:
        await settled(client, 10, 10)
        assert [(await ask(client, path))[0] for path in ("drivers", "inputs")] == [403, 403]
        _, answer = await ask(client, "inputs")
        assert "10 inputs are kept, console.min_requests is 20" in answer["error"]


def test_a_model_that_changes_its_input_leaves_what_is_kept_as_it_came(configure, monkeypatch):
    class Clamps(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x.clamp_(max=0.5))

    monkeypatch.setattr("tests.app.factories.clamps", Clamps, raising=False)
    x = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
    of_model = {
        "source": "tests.app.factories:clamps", "inputs": [x], "outputs": [{**x, "name": "y"}], "taps": ["layer"],
    }  # fmt: skip
    everything = configure(of_model, console={"keep_inputs": 4})
    (settings,) = everything.models
    seen = observe(runtime.load(settings), settings, everything, lambda _: None, lambda: 0.0)
    given = np.ones((3, 4), np.float32)
    seen.replay.activation(seen.taps[0], KeptInput("r", 0.0, {"x": Tensor("FP32", given)}, 3))
    assert np.array_equal(given, np.ones((3, 4)))


async def test_requests_run_on_while_inputs_are_run_again(configure, serve):
    async with serve(configure(console={"keep_inputs": 64})) as client:
        await client.send(120)

        asked = asyncio.ensure_future(ask(client, "inputs"))
        await client.send(120)
        status, _ = await asked
        assert status == 200
        assert client.model.status().failures == dict.fromkeys(client.recorder.guard.PARTS, 0)


def test_an_onnx_model_is_run_again_too(configure, tmp_path):
    proto = model([node("MatMul", "x w", "h"), node("Add", "h x", "y")], {"w": square()})
    x = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
    of_model = {
        "runtime": "onnx", "source": None, "path": str(save(proto, tmp_path / "model.onnx")),
        "inputs": [x], "outputs": [{**x, "name": "y"}], "taps": ["h"],
    }  # fmt: skip
    everything = configure(of_model, console={"keep_inputs": 4})
    (settings,) = everything.models
    seen = observe(runtime.load(settings), settings, everything, lambda _: None, lambda: 0.0)
    given = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = seen.replay.activation(seen.taps[0], KeptInput("r", 0.0, {"x": Tensor("FP32", given)}, 3))
    assert np.allclose(found, (given @ square())[:, None])
