"""The published layer through all of it: a served model whose layer has its values, the observe op, the API."""

from __future__ import annotations

import numpy as np
import pytest

from tests.console.published import LAYER_UNITS, PEAKS, layer_values, unit_means

REQUESTS = 24


@pytest.fixture
async def shown(configure, serve):
    """What the layer was given, float32[requests, tokens, units], and what the API says of it."""
    tensor = {"datatype": "FP32", "shape": [-1, 2, LAYER_UNITS]}
    model = {
        "source": "tests.app.factories:Identity",
        "inputs": [{"name": "pixels", **tensor}],
        "outputs": [{"name": "logits", **tensor}],
        "taps": ["layer"],
        "logits": "",
    }
    rng = np.random.default_rng(0)
    values = layer_values(rng, unit_means(rng), REQUESTS)
    async with serve(configure(model)) as client:
        for one in values:
            await client.infer(one[None])
        seen = 0
        while seen < REQUESTS:
            reply = await client.http.get("/api/v1/layer", params={"layer": 0, "spikes": 40})
            seen = reply.json()["covered"]["requests"] if reply.status_code == 200 else 0
        yield values, reply.json()


async def test_the_published_layer_is_seen_by_the_observe_op_as_it_was_given(shown):
    values, layer = shown
    assert layer["positions"] == REQUESTS * 2
    assert layer["channels"]["mean"] == pytest.approx(values.mean((0, 1)).tolist(), rel=1e-4, abs=1e-4)
    assert layer["channels"]["absmax"] == pytest.approx(np.abs(values).max((0, 1)).tolist(), rel=1e-4)
    assert layer["channels"]["outliers"] == (np.abs(values) >= 6).sum((0, 1)).tolist()


async def test_the_published_spikes_are_found_with_their_signs_and_places(shown):
    _, layer = shown
    largest = {one["channel"]: one["mean"] for one in layer["spikes"][: len(PEAKS)]}
    assert largest == pytest.approx(PEAKS, abs=0.2)
    assert np.mean(np.abs(layer["channels"]["mean"]) > 6) < 0.01
