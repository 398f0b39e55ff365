import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.sketch import TapSketch
from sidecar.sketch.formats import (
    BFLOAT16,
    E4M3,
    E5M2,
    FLOAT16,
    FORMATS,
    NARROW,
    best_exponent,
    headroom,
    losses,
)


def sketch(values):
    return TapSketch.from_array(np.asarray(values, dtype=np.float32), 2.0**-10, 1)


def cast(values, target):
    """Values as the format holds them, by its definition: infinity beyond its largest, ties to even."""
    magnitude = np.abs(values)
    exponent = np.maximum(
        np.floor(np.log2(np.where(magnitude > 0, magnitude, 1))), np.log2(target.least_normal)
    )
    bits = round(math.log2(target.least_normal / target.least))
    step = 2.0 ** (exponent - bits)
    return np.where(magnitude > target.largest, np.inf, np.round(magnitude / step) * step)


@given(st.integers(0, 10_000), st.integers(-12, 12), st.sampled_from(NARROW))
def test_losses_are_those_of_casting_each_value(seed, exponent, target):
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(40, 4)) * 2.0 ** rng.uniform(-20, 20, (40, 4))).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = 0
    ties = 2.0 ** rng.integers(-20, 10, values.shape)
    values = np.where(rng.random(values.shape) < 0.2, ties, values).astype(np.float32)
    scaled = values.astype(np.float64) * 2.0**exponent
    held = cast(scaled, target)
    (found,) = losses(sketch(values).histogram, [(target, exponent)])
    assert found.overflow == np.mean(np.isinf(held))
    assert found.to_zero == np.mean((held == 0) & (values != 0))
    small = np.mean((np.abs(scaled) <= target.least_normal) & (held > 0))
    assert found.subnormal == pytest.approx(small, abs=1e-12)


@given(st.floats(1e-30, 1e30), st.sampled_from(FORMATS))
def test_the_best_exponent_is_the_last_without_overflow(absmax, target):
    exponent = best_exponent(absmax, target)
    assert absmax * 2.0**exponent <= target.largest < absmax * 2.0 ** (exponent + 1)


def test_headroom_counts_doublings_of_each_format():
    assert headroom(448 / 4, E4M3) == 2
    assert headroom(57344 * 2, E5M2) == -1
    assert headroom(65504, FLOAT16) == 0
    assert headroom(1.0, BFLOAT16) == pytest.approx(128, abs=0.01)
    assert headroom(0.0, E4M3) == math.inf


def test_without_values_nothing_is_lost():
    empty = TapSketch.empty(2)
    assert math.isnan(losses(empty.histogram, [(E4M3, 0)])[0].overflow)
    assert best_exponent(empty.absmax, E4M3) == best_exponent(0.0, E4M3) == 0


@given(st.integers(0, 1000))
def test_the_median_magnitude_is_in_the_bucket_of_the_median(seed):
    values = np.random.default_rng(seed).normal(size=(21, 3)).astype(np.float32)
    median = np.median(np.abs(values))
    assert median <= sketch(values).histogram.median_magnitude <= median * 9 / 8


def test_where_most_are_zeros_the_median_magnitude_is_zero():
    assert sketch([[0.0, 0.0, 5.0]]).histogram.median_magnitude == 0
    assert math.isnan(TapSketch.empty(1).histogram.median_magnitude)


def test_channel_kurtosis_is_that_of_the_channels_rms():
    values = np.random.default_rng(5).normal(size=(300, 6)) * [1, 1, 1, 1, 1, 9]
    power = np.sqrt(np.mean(values.astype(np.float32).astype(float) ** 2, axis=0))
    channels = sketch(values).channels
    assert channels.rms == pytest.approx(power)
    assert channels.rms_kurtosis == pytest.approx(np.mean(power**4) / np.mean(power**2) ** 2)
    assert sketch(np.eye(8) * [1] + np.zeros((8, 8))).channels.rms_kurtosis == pytest.approx(1)
    assert sketch(np.pad(np.ones((3, 1)), ((0, 0), (0, 7)))).channels.rms_kurtosis == 8


def test_a_channel_that_rests_once_in_a_thousand_is_always_on():
    values = np.ones((1000, 3))
    values[0, 1], values[:2, 2] = 0, 0
    assert sketch(values).channels.always_on().tolist() == [True, True, False]
    assert sketch(values).channels.top(1) == {0}
    assert TapSketch.empty(3).channels.top(2) == frozenset()
