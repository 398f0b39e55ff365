"""Drift through the real capture: scenarios with known truth in short, and a restart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sidecar.demo.model import build
from sidecar.model import Model
from tests.bench.drift_scenarios import Digits, Served, blurred, dead_block, judged, recorded


@pytest.fixture(scope="module")
def weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().state_dict()


@pytest.fixture(scope="module")
def served(configure, weights, tmp_path_factory):
    """Serves the demo's model with random weights, or what `change` makes of them."""

    def served(change=lambda weights: weights):
        path = tmp_path_factory.mktemp("model") / "weights.safetensors"
        save_file(change(weights), path)
        return Served(
            configure(drift={"reference_requests": 1_000, "requests_between_false_alarms": 10_000}), path
        )

    return served


@pytest.fixture(scope="module")
def whole(served):
    return served()


@pytest.fixture(scope="module")
def reference(whole):
    return recorded(whole, Digits().drawn(1_000))


def test_the_same_traffic_raises_no_alarm(whole, reference):
    digits = Digits(seed=1)
    outcome = judged(whole, whole.monitor(reference), digits.drawn(50), digits.drawn(400))
    assert (outcome.delay, outcome.cause) == (None, "")


def test_blur_is_found_at_the_first_layer(whole, reference):
    digits = Digits(seed=1)
    outcome = judged(whole, whole.monitor(reference), digits.drawn(50), digits.drawn(400, blurred))
    assert outcome.delay is not None
    assert outcome.delay <= 100
    assert outcome.layer == 0


def test_a_dead_block_is_found_at_its_layer(served, reference):
    broken, digits = served(dead_block), Digits(seed=1)
    outcome = judged(broken, broken.monitor(reference), digits.drawn(0), digits.drawn(400))
    assert outcome.delay is not None
    assert outcome.delay <= 50
    assert outcome.layer == 3


def test_a_nan_is_counted_where_it_is_too_rare_to_be_drift(whole, reference):
    digits = Digits(seed=1)
    traffic = digits.drawn(400)
    traffic[0][200, 0] = np.nan
    outcome = judged(whole, whole.monitor(reference), digits.drawn(50), traffic)
    assert outcome.cause.endswith("NaN counted at the first layer")


async def test_a_model_that_is_stopped_keeps_its_reference_and_evidence(configure, tmp_path):
    everything = configure(drift={"reference_requests": 200, "state": str(tmp_path / "state")})
    seen = []
    for _ in range(2):
        model = Model(everything.models[0], everything, lambda: 0.0)
        model.start()
        monitor, recorder = model.observation.monitor, model.observation.recorder
        if not seen:
            one, traffic = Served(everything), Digits().drawn(300)
            for reading in one.readings(traffic):
                monitor.observe(reading)
        seen.append(monitor.state())
        await model.stop()
        assert not recorder.guard.failures["judge"]
    assert seen[1].judged_requests == seen[0].judged_requests == 100
    assert seen[1].model_evidence == seen[0].model_evidence
