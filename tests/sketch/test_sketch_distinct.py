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


@pytest.mark.parametrize("different", [1, 10, 300, 2_000, 6_000, 20_000, 200_000])
def test_the_estimate_is_within_four_standard_errors(different):
    assert seen(np.tile(np.arange(different), 2)).estimate == pytest.approx(different, rel=4 * 0.023)


def test_nothing_seen_is_nothing():
    assert Distinct().estimate == 0


@given(
    st.lists(st.integers(-(2**62), 2**62), max_size=60), st.lists(st.integers(-(2**62), 2**62), max_size=60)
)
def test_a_merge_is_the_sketch_of_both(first, second):
    merged = seen(first)
    merged.merge(seen(second))
    assert np.array_equal(merged.registers, seen(first + second).registers)


def test_a_register_holds_the_place_of_the_first_bit_that_is_set():
    sketch = Distinct()
    sketch.update(np.array([3 << 53, (5 << 53) | 1, (6 << 53) | (1 << 52)], dtype=np.uint64))
    assert sketch.registers[[3, 5, 6, 7]].tolist() == [54, 53, 1, 0]


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
