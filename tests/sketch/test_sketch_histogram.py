import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.sketch import BINS, Histogram, bin_index, edges

float32 = st.floats(width=32, allow_nan=False, allow_infinity=False).filter(lambda value: value != 0)


def histogram_of(values, zeros=0):
    nonzero = np.array([value for value in values if value != 0], dtype=np.float32)
    counts = np.bincount(bin_index(nonzero), minlength=BINS).astype(np.int64)
    counts[-1] = zeros + len(values) - len(nonzero)
    return Histogram(counts)


@given(float32)
def test_a_value_lies_in_its_bucket_upper_edge_included(value):
    index = int(bin_index(np.array([value], dtype=np.float32))[0])
    sign, bucket = divmod(index, BINS // 2)
    assert sign == (value < 0)
    assert edges()[bucket] < abs(np.float64(np.float32(value))) <= edges()[bucket + 1]


def test_edges_rise_from_zero_by_at_most_an_eighth():
    normal = edges()[8:]
    assert edges()[0] == 0
    assert np.all(np.diff(edges()) > 0)
    assert np.all(normal[1:] / normal[:-1] <= 1.125)


def test_an_edge_belongs_to_the_bucket_below_it():
    assert bin_index(np.array([1.0], dtype=np.float32)) + 1 == bin_index(
        np.array([np.nextafter(np.float32(1), np.float32(2))], dtype=np.float32)
    )


def test_the_largest_float32_leaves_the_last_eight_buckets_empty():
    largest = np.array([np.finfo(np.float32).max], dtype=np.float32)
    assert bin_index(largest)[0] == BINS // 2 - 9


@given(st.lists(st.floats(-100, 100, width=32), max_size=60), st.integers(700, 1100))
def test_the_count_at_a_positive_edge_is_exact(values, bucket):
    bound = edges()[bucket]
    counted = histogram_of(values).cumulative_at(bound)
    assert counted == sum(value <= bound for value in values)


@given(st.lists(st.floats(-100, 100, width=32), max_size=60), st.integers(700, 1100))
def test_the_count_at_a_negative_edge_leaves_out_values_equal_to_it(values, bucket):
    bound = -edges()[bucket]
    counted = histogram_of(values).cumulative_at(bound)
    assert counted == sum(value < bound for value in values)


@given(st.lists(float32, max_size=40), st.integers(0, 5))
def test_counts_at_rising_bounds_never_fall_and_end_at_all_values(values, zeros):
    bounds = np.array([-np.inf, -10.0, -1.0, 0.0, 0.3, 8.0, np.inf])
    counted = histogram_of(values, zeros).cumulative_at(bounds)
    assert counted[0] == 0
    assert np.all(np.diff(counted) >= 0)
    assert counted[-1] == len(values) + zeros


def test_zeros_count_from_bound_zero_on():
    histogram = histogram_of([-1.0, 2.0], zeros=5)
    assert (histogram.zeros, histogram.total) == (5, 7)
    assert histogram.cumulative_at([-1e-30, 0.0, 1e-30]).tolist() == [1, 6, 6]


def test_a_value_cut_by_the_bound_counts_as_above_it():
    assert histogram_of([1.01]).cumulative_at(1.05) == 0


@pytest.mark.parametrize("q", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_a_quantile_is_within_a_bucket_of_the_sorted_values(q):
    values = np.random.default_rng(3).normal(1.0, 2.0, 20_000).astype(np.float32)
    exact = np.quantile(values, q)
    assert histogram_of(values).quantile(q) == pytest.approx(exact, rel=0.13)


def test_the_median_of_mostly_zeros_is_zero():
    assert histogram_of([-1.0, 1.0, 2.0], zeros=10).quantile(0.5) == 0


def test_a_quantile_of_nothing_is_nan():
    assert np.isnan(Histogram.empty().quantile(0.5))


def test_the_lowest_quantile_lies_in_the_lowest_filled_bucket():
    assert -3.25 <= histogram_of([-3.2, 5.0]).quantile(0.0) <= -3.0
