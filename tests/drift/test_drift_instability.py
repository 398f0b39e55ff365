import itertools
import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drift.instability import AcrossLayers, absmax_growth, churn, instability
from sidecar.sketch import TapSketch
from sidecar.types import Tap


def sketch(values, requests=1):
    return TapSketch.from_array(np.asarray(values, dtype=np.float32), 2.0**-10, requests)


def alone(window):
    return instability(window, None, TapSketch.empty(len(window.channels)), np.empty(0))


def layers(*arrays, site="resid"):
    return {
        Tap(index, site, f"blocks.{index}", np.shape(values)[-1]): sketch(values)
        for index, values in enumerate(arrays)
    }


def test_signs_of_instability_compare_window_and_reference():
    window = sketch([[0.0, 8.0, np.nan], [0.0, -65504.0 / 4, 1.0]])
    signs = instability(window, sketch([[1.0, 2.0, -4.0]]), TapSketch.empty(3), np.array([4.0]))
    assert signs.nonfinite == 1
    assert signs.headroom["float16"] == 2
    assert signs.absmax_growth == 65504 / 16
    assert (signs.dead_channels, signs.always_on_channels) == (1, 1)
    assert signs.rate_bound == 1
    assert math.isnan(signs.rms_change)


def test_a_channel_that_stays_at_its_bound_is_saturated_and_one_that_swings_is_not():
    rng = np.random.default_rng(1)
    values = np.tanh(np.column_stack([rng.normal(9, 1, 500), rng.normal(0, 3, 500), rng.normal(0, 0.1, 500)]))
    assert alone(sketch(values)).saturated_channels == 1
    assert alone(sketch(values[:200])).saturated_channels == 0


@given(st.integers(0, 1_000))
def test_of_a_saturated_channel_half_of_the_values_are_near_its_largest(seed):
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((400, 8)) < rng.uniform(0.9, 1, 8), 1.0, rng.random((400, 8)))
    values *= rng.choice([-1.0, 1.0], size=(400, 8))
    near = (np.abs(values) >= 0.99 * np.abs(values).max(axis=0)).mean(axis=0)
    assert np.all(near[sketch(values).channels.saturated()] >= 0.5)


def test_growth_of_the_rms_is_counted_in_doublings():
    window, reference, before = sketch([[8.0, -8.0]]), sketch([[2.0, 2.0]]), sketch([[32.0, 32.0]])
    signs = instability(window, reference, before, np.array([2.0]))
    assert (signs.rms_growth, signs.rms_change) == (2, -2)


def test_growth_needs_a_reference_that_is_not_zero():
    window, zero = sketch([[1.0]]), sketch([[0.0]])
    for reference, absmax in ((None, np.empty(0)), (zero, np.zeros(1))):
        signs = instability(window, reference, zero, absmax)
        assert math.isnan(signs.absmax_growth)
        assert math.isnan(signs.rms_growth)


def drawn(rng, *shape):
    """Absmax of requests of which few are far larger than most."""
    return np.exp(rng.normal(size=shape))


@pytest.mark.parametrize("requests", [1, 2, 3, 5, 10, 100])
def test_few_requests_that_are_like_the_reference_do_not_look_like_a_collapse(requests):
    rng = np.random.default_rng(0)
    reference = np.sort(drawn(rng, 5000))
    largest = drawn(rng, 20_000, requests).max(axis=1)
    assert requests > 10 or np.mean(largest < 0.25 * reference[-1]) > 0.1
    assert min(absmax_growth(each, requests, reference) for each in largest.tolist()) >= 0.25


@pytest.mark.parametrize("requests", [2, 3, 5, 10, 100])
def test_requests_that_lost_nearly_all_they_said_look_like_a_collapse_from_two_on(requests):
    rng = np.random.default_rng(1)
    reference = np.sort(drawn(rng, 5000))
    largest = drawn(rng, 1000, requests).max(axis=1) / 1000
    assert max(absmax_growth(each, requests, reference) for each in largest.tolist()) < 0.25


def test_one_request_never_looks_like_a_collapse():
    assert absmax_growth(0.0, 1, np.sort(drawn(np.random.default_rng(2), 5000))) == 1


@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_the_chance_of_so_low_an_absmax_is_its_share_of_all_orders(n, requests, data):
    """Counted over all ways in which the values of both sides can be ordered."""
    k = data.draw(st.integers(0, n - 1))
    orders = list(itertools.combinations(range(n + requests), requests))
    low = [order for order in orders if order[-1] - requests < k]
    reference = np.arange(1.0, n + 1)
    with mock.patch("sidecar.drift.instability.CHANCE", len(low) / len(orders) * (1 + 1e-9)):
        assert absmax_growth(k + 0.5 if k else 0.5, requests, reference) < 1
    with mock.patch("sidecar.drift.instability.CHANCE", len(low) / len(orders) * (1 - 1e-9)):
        assert absmax_growth(k + 0.5 if k else 0.5, requests, reference) == 1


@given(st.floats(1, 1e6), st.integers(1, 1000))
def test_what_is_larger_than_ever_is_a_multiple_of_it_however_many_requests(times, requests):
    assert absmax_growth(3.0 * times, requests, np.array([1.0, 2.0, 3.0])) == pytest.approx(times)


def test_nothing_is_measured_where_nothing_was_seen():
    signs = alone(TapSketch.empty(2))
    assert math.isnan(signs.headroom["e4m3"])
    assert math.isnan(signs.narrowed["e4m3"].best.to_zero)
    assert (signs.massive, signs.always_on_channels) == (0, 0)
    assert math.isnan(signs.dead_channels)
    assert math.isnan(signs.churn)
    assert math.isnan(signs.rms_kurtosis)


def test_the_best_scale_trades_no_overflow_for_underflow():
    values = np.random.default_rng(0).normal(0, 2.0**-11, (500, 4))
    values[0, 0] = 1.0
    narrowed = alone(sketch(values)).narrowed["e4m3"]
    assert narrowed.best_exponent == 8
    assert narrowed.best.overflow == 0
    assert narrowed.best.to_zero < 0.01
    assert narrowed.now.to_zero > 0.5


@given(st.integers(0, 1000))
def test_a_massive_channel_is_above_100_and_1000_medians(seed):
    """Of values at random powers of two, whose buckets say exactly where the median lies."""
    rng = np.random.default_rng(seed)
    values = 2.0 ** rng.integers(-4, 9, (31, 5))
    values[0, :2] = 2.0 ** rng.integers(5, 18, 2)
    magnitude = np.abs(values)
    median = np.sort(magnitude.ravel())[(magnitude.size - 1) // 2]
    top = magnitude.max(axis=0)
    assert sketch(values).massive().sum() == np.count_nonzero((top > 100) & (top >= 1000 * median))


def test_churn_is_the_share_of_the_ten_strongest_that_are_new():
    strong = np.ones((3, 40))
    strong[:, :10] = 9
    moved = np.ones((3, 40))
    moved[:, 3:13] = 9
    assert churn(sketch(strong), sketch(moved)) == 0.3
    assert churn(sketch(strong), sketch(strong)) == 0
    assert math.isnan(churn(TapSketch.empty(40), sketch(moved)))


def test_an_outlier_feature_is_in_a_quarter_of_the_layers_at_6_percent_of_positions():
    quiet = np.ones((100, 4))
    loud = quiet.copy()
    loud[:6, 0] = -7
    almost = quiet.copy()
    almost[:5, 1] = 7
    assert AcrossLayers.of(layers(loud, quiet, quiet, quiet)).outlier_features == 1
    assert AcrossLayers.of(layers(loud, quiet, quiet, quiet, quiet)).outlier_features == 0
    assert AcrossLayers.of(layers(*[almost] * 4)).outlier_features == 0


def test_layers_of_another_width_are_counted_apart():
    loud = np.full((10, 4), 7.0)
    assert AcrossLayers.of(layers(loud, np.ones((10, 8)), np.ones((10, 8)))).outlier_features == 4


@given(st.floats(-2, 2), st.integers(2, 8))
def test_growth_with_depth_is_the_slope_of_log2_rms(slope, depth):
    arrays = [np.full((2, 2), 2.0 ** (slope * layer)) for layer in range(depth)]
    assert AcrossLayers.of(layers(*arrays)).depth_growth == pytest.approx(slope, abs=1e-5)


def test_growth_with_depth_needs_two_layers_that_saw_something():
    assert math.isnan(AcrossLayers.of({}).depth_growth)
    assert math.isnan(AcrossLayers.of(layers(np.ones((2, 2)))).depth_growth)
    assert math.isnan(AcrossLayers.of(layers(np.ones((2, 2)), np.zeros((2, 2)))).depth_growth)


def test_growth_with_depth_is_that_of_the_residual_stream():
    resid = layers(np.ones((2, 2)), np.full((2, 2), 2.0))
    heads = layers(*[np.full((2, 2), 8.0**layer) for layer in range(4)], site="attn_out")
    assert AcrossLayers.of({**heads, **resid}).depth_growth == pytest.approx(1)
