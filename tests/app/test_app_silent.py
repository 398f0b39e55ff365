"""Taps that stop firing while requests are served: readiness and the metrics name them, and no request is lost."""

from __future__ import annotations

import asyncio
import copy

import pytest

DETAIL = "taps ['blocks.2'] saw nothing of the last sampled requests"


def remove_the_hook(variant):
    variant.blocks[2]._forward_hooks.clear()


def replace_the_module(variant):
    variant.blocks[2] = copy.deepcopy(variant.blocks[2])
    variant.blocks[2]._forward_hooks.clear()


async def readiness(client):
    """Of the model, after the next drain that brought requests."""
    observation = client.model.observation
    while observation.timeline.total(observation.taps[0]).counts.requests < client.recorder.sampled:
        await asyncio.sleep(0)
    reply = await client.http.get("/readyz")
    assert reply.status_code == 200
    return reply.json()["models"][0]


@pytest.mark.parametrize("silence", [remove_the_hook, replace_the_module])
async def test_a_tap_that_stops_firing_is_named_in_readiness_and_shown_in_a_metric(serve, configure, silence):
    async with serve(configure()) as client:
        await client.send(40)
        assert (await readiness(client))["detail"] == ""
        silence(client.model.runtime._instrumented)
        await client.send(40)
        told = await readiness(client)
        found = await client.metrics()
        status = (await client.http.get("/api/v1/status")).json()["models"][0]
    assert (told["ready"], told["instrumented"], told["detail"]) == (True, True, DETAIL)
    assert [found("sidecar_tap_silent", layer=str(layer), site="resid") for layer in range(6)] == [
        0,
        0,
        1,
        0,
        0,
        0,
    ]
    assert [layer["silent"] for layer in status["layers"]] == [False, False, True, False, False, False]


async def test_a_tap_that_fires_again_is_silent_no_more(serve, configure):
    async with serve(configure()) as client:
        hooks = client.model.runtime._instrumented.blocks[2]._forward_hooks
        kept = dict(hooks)
        hooks.clear()
        await client.send(20)
        assert (await readiness(client))["detail"] == DETAIL
        hooks.update(kept)
        await client.send(20)
        assert (await readiness(client))["detail"] == ""


async def test_every_tap_is_named_when_a_graph_without_hooks_runs_in_place_of_the_variant(serve, configure):
    async with serve(configure()) as client:
        client.model.runtime._instrumented = client.model.runtime._plain
        await client.send(20)
        while not client.model.observation.silent:
            await asyncio.sleep(0)
        told = (await client.http.get("/readyz")).json()["models"][0]
    assert all(f"blocks.{block}" in told["detail"] for block in range(6))
