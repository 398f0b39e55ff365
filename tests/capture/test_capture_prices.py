"""What taps cost that nobody can time: measured when the model is loaded, charged by what they saw."""

from __future__ import annotations

import pytest
import torch

from sidecar.capture import prices
from sidecar.capture.prices import Price, op_seconds
from sidecar.capture.taps import Placement
from sidecar.types import Tap

CPU = torch.device("cpu")
NEAR_ZERO = 2.0**-10


def test_a_price_is_for_each_call_and_for_each_value():
    assert Price(call=100.0, value=0.5).of(calls=3, values=1000) == 800


def test_taps_without_a_clock_are_charged_for_what_was_observed_once_it_is_drained(
    make_recorder, make_request, run_batch, tap
):
    recorder = make_recorder()
    recorder.prices = {tap: Price(call=1000.0, value=2.0)}
    for batch in ([make_request(1, rows=3)], [make_request(2), make_request(3, sidecar_sample=False)]):
        assert recorder.open(batch)
        run_batch(recorder, batch)
        recorder.close()
    assert recorder.charged == 0
    recorder.drain(0.0)
    observed_values = (3 + 1) * tap.channels
    assert recorder.charged == 2 * 1000 + 2 * observed_values
    assert recorder.drain(0.0) is None
    assert recorder.charged == 2 * 1000 + 2 * observed_values


@pytest.mark.parametrize("channel_dim", [-1, 1])
def test_a_measured_price_is_that_of_a_call_and_its_values(channel_dim):
    tap = Tap(0, "resid", "block", 64)
    price = prices([Placement(tap, channel_dim, 1)], NEAR_ZERO, CPU)[tap]
    # Either part may be lost in the noise of a busy machine, not both.
    assert price.of(calls=1, values=64 * 256) > 0
    assert price.value < 1000


def test_more_values_cost_more():
    small, large = (op_seconds((1, positions, 64), -1, 1, NEAR_ZERO, CPU) for positions in (4, 4096))
    assert 0 < small < large


def test_an_activation_without_dimensions_beyond_the_batch_has_a_cost_too():
    assert op_seconds((8,), -1, 8, NEAR_ZERO, CPU) > 0
