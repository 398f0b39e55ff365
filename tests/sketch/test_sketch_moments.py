import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.sketch import Moments


def moments_of(values):
    mean = values.mean() if values.size else 0.0
    centred = values - mean
    m2, m3, m4 = (float(np.sum(centred**power)) for power in (2, 3, 4))
    least, most = float(values.min(initial=np.inf)), float(values.max(initial=-np.inf))
    return Moments(values.size, float(mean), m2, m3, m4, least, most)


def assert_close(seen, expected, scale, rel=1e-12):
    """`scale`: n and the largest |x - mean|, to which the rounding of a power sum is relative."""
    n, spread = scale
    assert seen.n == expected.n
    assert (seen.minimum, seen.maximum) == (expected.minimum, expected.maximum)
    assert seen.mean == pytest.approx(expected.mean, rel=rel, abs=rel * spread)
    for power, name in ((2, "m2"), (3, "m3"), (4, "m4")):
        bound = rel * n * spread**power
        assert getattr(seen, name) == pytest.approx(getattr(expected, name), rel=rel, abs=bound)


@st.composite
def unlike_parts(draw):
    """Two to six samples whose means, spreads and sizes differ."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    parts = []
    for _ in range(draw(st.integers(2, 6))):
        mean, spread = draw(st.floats(-50, 50)), draw(st.floats(0.01, 20))
        parts.append(rng.normal(mean, spread, draw(st.integers(0, 200))))
    return parts


@given(unlike_parts())
def test_merged_unlike_parts_equal_the_moments_of_the_whole(parts):
    whole = np.concatenate(parts)
    merged = Moments.empty()
    for part in parts:
        merged.merge(moments_of(part))
    spread = float(np.abs(whole - whole.mean()).max()) if whole.size else 1.0
    assert_close(merged, moments_of(whole), (whole.size, spread))


@given(unlike_parts())
def test_merge_is_commutative_and_associative(parts):
    a, b, c = (moments_of(part) for part in (parts * 2)[:3])
    left, right, turned = a.copy(), b.copy(), c.copy()
    left.merge(b)
    left.merge(c)
    right.merge(c)
    grouped = a.copy()
    grouped.merge(right)
    turned.merge(b)
    turned.merge(a)
    spread = max(abs(left.minimum), abs(left.maximum)) * 2 if left.n else 1.0
    assert_close(grouped, left, (left.n, spread))
    assert_close(turned, left, (left.n, spread))


def test_merge_leaves_its_argument_as_it_was():
    other = moments_of(np.array([1.0, 5.0, 7.0]))
    before = astuple(other)
    moments_of(np.array([100.0, 3.0])).merge(other)
    assert astuple(other) == before


def test_empty_is_the_neutral_element():
    some = moments_of(np.array([1.0, 5.0, 7.0]))
    merged = Moments.empty()
    merged.merge(some)
    assert merged == some
    merged.merge(Moments.empty())
    assert merged == some


@given(st.floats(-3, 3), st.integers(0, 2**32 - 1))
def test_power_sums_about_any_near_pivot_give_the_central_moments(offset, seed):
    values = np.random.default_rng(seed).normal(1.5, 2.0, 400)
    about = values - (1.5 + offset)
    sums = [float(np.sum(about**power)) for power in (1, 2, 3, 4)]
    seen = Moments.from_power_sums(400, 1.5 + offset, *sums, values.min(), values.max())
    assert_close(seen, moments_of(values), (400, float(np.abs(about).max())), rel=1e-12)


def test_power_sums_of_nothing_are_empty():
    assert Moments.from_power_sums(0, 3.0, 0, 0, 0, 0, math.inf, -math.inf) == Moments.empty()


def test_a_gaussian_has_kurtosis_3_and_no_skewness():
    seen = moments_of(np.random.default_rng(0).normal(100, 0.1, 200_000))
    assert seen.kurtosis == pytest.approx(3, abs=0.05)
    assert seen.skewness == pytest.approx(0, abs=0.02)
    assert seen.stddev == pytest.approx(0.1, rel=0.01)


def test_rms_and_absmax_are_those_of_numpy():
    values = np.array([-7.0, 1.0, 2.5])
    assert moments_of(values).rms == pytest.approx(np.sqrt(np.mean(values**2)))
    assert moments_of(values).absmax == 7


@pytest.mark.parametrize("values", [np.array([]), np.array([4.2]), np.full(1000, 0.1)])
def test_shape_of_values_that_do_not_vary_is_undefined(values):
    assert math.isnan(moments_of(values).kurtosis)
    assert math.isnan(moments_of(values).skewness)


def test_statistics_of_nothing_are_nan():
    empty = Moments.empty()
    assert all(math.isnan(value) for value in (empty.variance, empty.stddev, empty.rms, empty.absmax))
