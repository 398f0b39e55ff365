"""Native histograms: made of a sketch, and of latencies as they come."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.samples import BucketSpan

from sidecar.export.catalogue import SECONDS_BUCKETS, STAGE_BUCKETS
from sidecar.export.latency import Histogram
from sidecar.export.native import PER_OCTAVE, ZERO_THRESHOLD, buckets, sparse, values
from sidecar.sketch import TapSketch

floats = st.floats(-(2.0**20), 2.0**20, width=32)
some = st.lists(floats, min_size=1, max_size=60)


def sketched(x):
    return TapSketch.from_array(np.array(x, dtype=np.float32)[:, None], 2.0**-10, 1)


def signs(native):
    negative = buckets(native.neg_spans, native.neg_deltas)
    positive = buckets(native.pos_spans, native.pos_deltas)
    return negative, positive


def up_to(native, bound):
    """How many values a native histogram says are at most `bound`, where buckets that it cuts count as above."""
    negative, positive = signs(native)
    below = sum(n for i, n in negative.items() if -(2 ** ((i - 1) / PER_OCTAVE)) <= bound)
    if bound >= native.zero_threshold:
        below += native.zero_count + sum(n for i, n in positive.items() if 2 ** (i / PER_OCTAVE) <= bound)
    return below


@given(some)
def test_the_count_is_the_sum_of_the_buckets(x):
    native = values(sketched(x))
    negative, positive = signs(native)
    assert native.count_value == native.zero_count + sum(negative.values()) + sum(positive.values()) == len(x)
    assert min([*negative.values(), *positive.values()], default=1) > 0


@given(some)
def test_each_sign_has_its_values_and_what_is_near_zero_is_in_the_zero_bucket(x):
    native = values(sketched(x))
    negative, positive = signs(native)
    assert sum(positive.values()) == sum(value > ZERO_THRESHOLD for value in x)
    assert sum(negative.values()) == sum(value < -ZERO_THRESHOLD for value in x)


@given(st.floats(2.0**-13, 2.0**60, width=32), st.sampled_from([1, -1]))
def test_a_value_is_at_most_one_bucket_from_where_it_belongs(magnitude, sign):
    found = signs(values(sketched([sign * magnitude] * 1000)))[sign == 1]
    belongs = math.ceil(round(math.log2(magnitude) * PER_OCTAVE, 9))
    assert set(found) <= {belongs - 1, belongs, belongs + 1}


@given(some)
def test_at_powers_of_two_a_native_histogram_is_exact(x):
    native = values(sketched(x))
    for bound in 2.0 ** np.arange(-13, 22):
        assert up_to(native, bound) == sum(value <= bound for value in x)


@settings(max_examples=50)
@given(some, some)
def test_no_bucket_ever_falls(first, more):
    before, after = sketched(first), sketched(first)
    after.merge(sketched(more))
    for old, new in zip(signs(values(before)), signs(values(after)), strict=True):
        assert all(new.get(number, 0) >= count for number, count in old.items())


def test_no_value_that_is_not_finite_enters_a_histogram():
    native = values(sketched([np.nan, np.inf, -np.inf, 2.0]))
    assert (native.count_value, native.sum_value) == (1, 2.0)


def test_a_histogram_without_values_is_a_native_one_all_the_same():
    native = values(TapSketch.empty(4))
    assert (native.count_value, native.sum_value, native.zero_threshold) == (0, 0.0, ZERO_THRESHOLD)
    assert (native.pos_spans, native.neg_spans) == ([], [])


def test_spans_are_runs_and_deltas_are_differences():
    spans, deltas = sparse(-3, np.array([0, 5, 7, 0, 0, 2, 1]))
    assert spans == [BucketSpan(-2, 2), BucketSpan(2, 2)]
    assert deltas == [5, 2, -5, -1]


@given(st.dictionaries(st.integers(0, 40), st.integers(1, 9), max_size=20), st.integers(-50, 50))
def test_buckets_that_are_written_sparsely_are_read_back(found, first):
    counts = np.zeros(41, dtype=np.int64)
    for number, count in found.items():
        counts[number] = count
    assert buckets(*sparse(first, counts)) == {first + number: count for number, count in found.items()}


seconds = st.floats(0, 2000) | st.sampled_from([*STAGE_BUCKETS, 2.0**-20, 2.0**-19, 1024.0])


@pytest.mark.parametrize("bounds", [SECONDS_BUCKETS, STAGE_BUCKETS])
@given(st.lists(seconds, max_size=40))
def test_a_latency_is_in_one_native_and_one_classic_bucket(bounds, observed):
    histogram = Histogram(bounds)
    for value in observed:
        histogram.observe(value)
    cumulative, native = histogram.read()
    assert cumulative == [*(sum(value <= bound for value in observed) for bound in bounds), len(observed)]
    _, positive = signs(native)
    assert native.count_value == native.zero_count + sum(positive.values()) == len(observed)
    for i in range(-20 * PER_OCTAVE, 10 * PER_OCTAVE + 1):
        bound = 2.0 ** (i / PER_OCTAVE)
        assert up_to(native, bound) == sum(value <= bound for value in observed)
    assert native.sum_value == pytest.approx(sum(observed))
