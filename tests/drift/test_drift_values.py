"""Effect sizes between the values of any two samples, and what they are without drift."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drift.nodrift import OF_VALUES, NoDrift, spread
from sidecar.drift.recent import Described
from sidecar.drift.scores import features
from sidecar.drift.sizes import Expected, effect_sizes
from sidecar.drift.values import between_parts, value_effects
from sidecar.drift.weighted import Weighted
from sidecar.sketch import TapSketch

KNOWN = NoDrift((0.5, 0.1, 0.4, 0.3, 0.2, 0.2), (1.0, 0.2, 0.8, 0.6, 0.4, 0.4))


def requests(rng, number):
    """Of 30 values each, half of whose variance is common to the request."""
    return (rng.normal(size=(number, 1)) + rng.normal(size=(number, 30))).astype(np.float32)


def sketch(values):
    return TapSketch.from_array(values.reshape(-1, 1), 2.0**-10, len(values))


def merged(parts):
    whole = parts[0].copy()
    for part in parts[1:]:
        whole.merge(part)
    return whole


@pytest.fixture(scope="module")
def ranges():
    """Parts of two ranges without drift, 24 of 10 requests and 8, 60 times; and of the first range itself."""
    rng = np.random.default_rng(0)
    return [[[sketch(requests(rng, 10)) for _ in range(number)] for number in (24, 8)] for _ in range(60)]


@pytest.mark.parametrize("effect", OF_VALUES)
def test_effects_between_ranges_without_drift_average_zero_by_what_parts_of_one_tell(ranges, effect):
    found = [value_effects(merged(old), merged(new), between_parts(old)) for old, new in ranges]
    seen = np.array([one.sizes[effect] for one in found])
    assert abs(seen.mean()) < 3 * seen.std() / math.sqrt(len(seen))
    assert np.mean([one.no_drift[effect] for one in found]) > 5 * abs(seen.mean())


@pytest.mark.parametrize("effect", OF_VALUES)
def test_effects_between_a_range_and_a_part_of_it_average_zero_too(ranges, effect):
    found = [
        value_effects(merged(old), merged(old[:12]), between_parts(old), shared=120.0) for old, _ in ranges
    ]
    seen = np.array([one.sizes[effect] for one in found])
    assert abs(seen.mean()) < 3 * seen.std() / math.sqrt(len(seen))


def test_drift_is_far_from_what_parts_differ_by():
    rng = np.random.default_rng(1)
    parts = [sketch(requests(rng, 10)) for _ in range(8)]
    found = value_effects(merged(parts), sketch(requests(rng, 80) + np.float32(1.5)), between_parts(parts))
    assert all(found.sizes[effect] > 3 * found.no_drift[effect] for effect in OF_VALUES)


def test_where_nothing_is_known_of_no_drift_nothing_is_subtracted(ranges):
    (old, new), *_ = ranges
    raw = value_effects(merged(old), merged(new), NoDrift.unknown())
    less = value_effects(merged(old), merged(new), KNOWN)
    assert (raw.no_drift, raw.levels, math.isnan(raw.times_level)) == ({}, {}, True)
    for effect in OF_VALUES:
        assert raw.sizes[effect] == pytest.approx(less.sizes[effect] + less.no_drift[effect])


def test_one_part_tells_nothing_of_no_drift(ranges):
    assert np.isnan(between_parts(ranges[0][0][:1]).mean).all()


def test_an_empty_side_has_no_effect_sizes(ranges):
    found = value_effects(merged(ranges[0][0]), TapSketch.empty(1), KNOWN)
    assert all(math.isnan(size) for size in found.sizes.values())


def test_of_a_window_and_its_reference_it_tells_what_drift_tells(ranges):
    (old, new), *_ = ranges
    reference, window = merged(old), merged(new)
    rows = features(np.ones((1, 80, 6)))
    expected = Expected.of(reference, Weighted(rows[0], np.ones(80)), KNOWN)
    (live,) = effect_sizes([expected], [window], Described(rows, np.ones(80)))
    found = value_effects(reference, window, KNOWN)
    for effect in OF_VALUES:
        assert found.sizes[effect] == pytest.approx(getattr(live, effect))
        assert found.levels[effect] == pytest.approx(live.levels[effect])


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0.0, 1.0))
def test_requests_that_both_sides_share_bring_them_nearer(n, m, part):
    apart, nearer = (spread(np.array([n]), np.array([m]), shared) for shared in (0.0, part * min(n, m)))
    assert (nearer >= 0).all()
    assert (nearer <= apart).all()


def test_a_sample_does_not_differ_from_itself_by_chance():
    assert not spread(np.array([7.0]), np.array([7.0]), 7.0).any()
