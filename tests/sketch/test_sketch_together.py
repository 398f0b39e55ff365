"""How channels go together, against numpy on all positions at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import SketchError
from sidecar.sketch import Together

NEAR_ZERO = 2.0**-10
CHANNELS = 6


@st.composite
def parts(draw):
    """Inputs of different lengths and different means; channel 4 never varies, channel 5 never fires."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = []
    for _ in range(draw(st.integers(1, 8))):
        x = rng.normal(rng.normal(), 1.0, (draw(st.integers(1, 3)), draw(st.integers(1, 7)), CHANNELS))
        x[rng.random(x.shape) < 0.3] = 0.0
        x[..., 1] += x[..., 0]
        x[..., 4], x[..., 5] = 2.5, 0.0
        found.append(x.astype(np.float32))
    return found


def merged(inputs, unit=0):
    total = Together.empty(CHANNELS, unit)
    for x in inputs:
        total.merge(Together.of_input(x, unit, NEAR_ZERO))
    return total


@given(parts())
def test_correlation_is_that_over_all_positions(inputs):
    found = merged(inputs).correlation
    flat = np.concatenate([x.reshape(-1, CHANNELS) for x in inputs]).astype(np.float64)
    for channel in range(CHANNELS):
        if flat[:, channel].std() < 1e-6 or flat[:, 0].std() < 1e-6:
            assert not np.isfinite(found[channel]) or flat[:, channel].std() > 0
        else:
            assert found[channel] == pytest.approx(np.corrcoef(flat[:, 0], flat[:, channel])[0, 1], abs=1e-6)


@given(parts())
def test_lift_is_how_often_both_fire_over_what_chance_would_give(inputs):
    seen = merged(inputs)
    fires = np.array([(np.abs(x) > NEAR_ZERO).any(axis=(0, 1)) for x in inputs])
    share = fires.mean(axis=0)
    assert (seen.fires == fires.sum(axis=0)).all()
    for channel in range(CHANNELS):
        both = np.mean(fires[:, 0] & fires[:, channel])
        if share[0] and share[channel]:
            assert seen.lift[channel] == pytest.approx(both / (share[0] * share[channel]))
        else:
            assert np.isnan(seen.lift[channel])


@given(parts(), st.randoms())
def test_inputs_may_come_in_any_order(inputs, random):
    shuffled = list(inputs)
    random.shuffle(shuffled)
    ours, theirs = merged(inputs), merged(shuffled)
    assert (ours.inputs, ours.positions) == (theirs.inputs, theirs.positions)
    assert np.allclose(ours.products, theirs.products)
    assert (ours.both == theirs.both).all()


def test_values_that_are_not_finite_count_as_zeros():
    x = np.array([[np.nan, 1.0], [np.inf, 2.0]], np.float32)
    found = Together.of_input(x, 1, NEAR_ZERO)
    assert found.total.tolist() == [0.0, 3.0]
    assert found.both.tolist() == [0, 1]


def test_sums_of_another_unit_are_refused():
    with pytest.raises(SketchError, match="channel 1 of 6 is not 0 of 6"):
        Together.empty(CHANNELS, 0).merge(Together.empty(CHANNELS, 1))
