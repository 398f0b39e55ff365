import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.sketch import Distinct, patterns, signatures
from sidecar.sketch.distinct import mixed


def hashes(numbers):
    return mixed(np.asarray(numbers, dtype=np.int64)[:, None])


def seen(numbers):
    sketch = Distinct()
    sketch.update(hashes(numbers))
    return sketch


@given(st.lists(st.lists(st.integers(0, 400), max_size=300), max_size=8))
def test_the_share_is_that_of_the_newest_512_however_they_come(readings):
    sketch = Distinct()
    for numbers in readings:
        sketch.update(hashes(numbers))
    every = [number for numbers in readings for number in numbers]
    if len(every) < 512:
        assert math.isnan(sketch.share)
    else:
        assert sketch.share == len(set(every[-512:])) / 512


@pytest.mark.parametrize("requests", [512, 5_000, 50_000])
def test_traffic_that_recurs_has_the_same_share_at_any_rate(requests):
    drawn = np.random.default_rng(0).integers(0, 719, requests)
    assert seen(drawn).share == pytest.approx(719 / 512 * -math.expm1(-512 / 719), abs=0.04)


def test_hashes_of_neighbours_share_half_of_their_bits():
    bits = np.unpackbits((hashes(range(4000)) ^ hashes(range(1, 4001))).view(np.uint8))
    assert bits.mean() == pytest.approx(0.5, abs=0.01)


ROW = np.array([[0.5, 2.0, 7.0, 0.25, 3.0, 0.0]])


@pytest.mark.parametrize("column", range(6))
def test_requests_that_differ_in_any_statistic_have_other_signatures(column):
    other = ROW.copy()
    other[0, column] += 0.25
    assert signatures(other) != signatures(ROW)


def test_requests_that_differ_by_rounding_look_alike():
    assert signatures(ROW * (1 + 1e-9)) == signatures(ROW)


SIDES = st.lists(st.booleans(), min_size=32, max_size=32)


@given(SIDES, SIDES, st.floats(1e-3, 1e3))
def test_requests_have_one_pattern_where_all_their_projections_have_the_same_sides(one, other, scale):
    sides = np.where([one, other], 1, -1)
    sizes = np.random.default_rng(0).uniform(0.1, scale + 0.1, (2, 32))
    first, second = patterns((sides * sizes).astype(np.float32))
    assert (first == second) == (one == other)


def test_requests_that_point_anywhere_have_patterns_of_their_own():
    projections = np.random.default_rng(0).normal(size=(1000, 32)).astype(np.float32)
    assert len(np.unique(patterns(projections))) == 1000


def test_a_request_that_is_not_finite_has_a_pattern():
    assert len(patterns(np.full((1, 32), np.inf, np.float32))) == 1


def test_a_request_of_zeros_has_a_signature():
    assert len(signatures(np.array([[0.0, 0, 0, 1, np.nan, 0]]))) == 1
