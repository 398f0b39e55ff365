import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import SketchError
from sidecar.sketch import ROW_STATISTICS, Channels, Histogram, Reading, RequestRows, TapSketch
from sidecar.types import Tap

CHANNELS = 5
NEAR_ZERO = 2.0**-10


def sketch(values, requests=1):
    return TapSketch.from_array(np.asarray(values, dtype=np.float32), NEAR_ZERO, requests)


@st.composite
def activations(draw):
    """Float32 [positions, CHANNELS] with zeros, outliers, subnormals, NaN and infinities among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.normal(
        draw(st.floats(-9, 9)), draw(st.floats(0.01, 4)), (draw(st.integers(1, 60)), CHANNELS)
    )
    values = values.astype(np.float32)
    special = np.array([0, -0.0, np.nan, np.inf, -np.inf, 1e-40, -6.0, 2.0**-10, 70_000], dtype=np.float32)
    chosen = rng.random(values.shape) < draw(st.floats(0, 0.5))
    values[chosen] = rng.choice(special, chosen.sum())
    return values


@given(activations(), st.data())
def test_random_cuts_merge_to_the_sketch_of_the_whole(values, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    merged = TapSketch.empty(CHANNELS)
    for part in np.split(values, cuts):
        merged.merge(sketch(part))
    whole = sketch(values, requests=len(cuts) + 1)
    assert merged.counts == whole.counts
    assert np.array_equal(merged.histogram.counts, whole.histogram.counts)
    assert np.array_equal(merged.channels.fires, whole.channels.fires)
    assert np.array_equal(merged.channels.outliers, whole.channels.outliers)
    assert np.array_equal(merged.channels.absmax, whole.channels.absmax)
    assert np.allclose(merged.channels.squares, whole.channels.squares, rtol=1e-12)
    assert merged.channels.positions == whole.channels.positions
    assert merged.moments.mean == pytest.approx(whole.moments.mean, rel=1e-12, abs=1e-9)
    assert merged.moments.m4 == pytest.approx(whole.moments.m4, rel=1e-11)


@given(activations())
def test_every_value_is_nonfinite_or_in_the_histogram(values):
    seen = sketch(values)
    assert seen.counts.values == seen.counts.nonfinite + seen.histogram.total
    assert seen.counts.zeros == seen.histogram.zeros
    assert seen.moments.n == seen.counts.values - seen.counts.nonfinite
    assert seen.counts.near_zeros + seen.channels.fires.sum() == seen.moments.n


@given(activations(), activations())
def test_merge_is_commutative_in_everything_counted(a, b):
    left, right = sketch(a), sketch(b)
    left.merge(sketch(b))
    right.merge(sketch(a))
    assert left.counts == right.counts
    assert np.array_equal(left.histogram.counts, right.histogram.counts)
    assert left.moments.m2 == pytest.approx(right.moments.m2, rel=1e-12)


@st.composite
def groupings(draw):
    """Two to six sketches with the values of each, and two ways to join them: each a list of (into, from)."""
    values = draw(st.lists(activations(), min_size=2, max_size=6))
    ways = []
    for _ in range(2):
        left, way = list(range(len(values))), []
        while len(left) > 1:
            into, other = draw(st.permutations(left))[:2]
            way.append((into, other))
            left.remove(other)
        ways.append(way)
    return values, ways


def joined(values, way):
    sketches = [sketch(part) for part in values]
    for into, other in way:
        sketches[into].merge(sketches[other])
    return sketches[way[-1][0]]


@given(groupings())
def test_in_any_order_and_grouping_counts_are_identical_and_moments_equal_to_1e_12(grouping):
    values, ways = grouping
    one, other = (joined(values, way) for way in ways)
    assert one.counts == other.counts
    assert np.array_equal(one.histogram.counts, other.histogram.counts)
    for name in ("positions", "fires", "outliers", "absmax"):
        assert np.array_equal(getattr(one.channels, name), getattr(other.channels, name)), name
    for name in ("total", "squares"):
        sums = [getattr(found.channels, name) for found in (one, other)]
        reach = sum(np.where(np.isfinite(part), np.abs(part), 0).max() for part in values)
        power = 1 if name == "total" else 2
        terms = one.channels.positions * reach**power
        assert np.all(np.abs(sums[0] - sums[1]) <= 1e-12 * terms), name
    ours, theirs = one.moments, other.moments
    assert (ours.n, ours.minimum, ours.maximum) == (theirs.n, theirs.minimum, theirs.maximum)
    if ours.n:
        spread = ours.maximum - ours.minimum
        assert abs(ours.mean - theirs.mean) <= 1e-12 * max(ours.absmax, spread)
        for power in (2, 3, 4):
            gap = abs(getattr(ours, f"m{power}") - getattr(theirs, f"m{power}"))
            assert gap <= 1e-12 * ours.n * spread**power, power


@given(activations())
def test_bytes_round_trip(values):
    assert TapSketch.from_bytes(sketch(values).to_bytes()) == sketch(values)


@given(st.data())
def test_a_flipped_bit_is_found(data):
    stored = bytearray(sketch([[1.0, 2.0], [0.0, np.nan]]).to_bytes())
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SketchError):
        TapSketch.from_bytes(bytes(stored))


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_bytes_cut_short_are_refused(keep):
    with pytest.raises(SketchError):
        TapSketch.from_bytes(sketch([[1.0]]).to_bytes()[:keep])


def test_another_format_version_is_named():
    stored = bytearray(sketch([[1.0]]).to_bytes())
    stored[4] = 9
    with pytest.raises(SketchError, match="format 9 is not supported"):
        TapSketch.from_bytes(bytes(stored))


def test_merging_another_width_is_refused_and_changes_nothing():
    mine = sketch([[1.0, 2.0]])
    with pytest.raises(SketchError, match="cannot merge 1 channels into 2"):
        mine.merge(sketch([[1.0]]))
    assert mine == sketch([[1.0, 2.0]])


def test_merge_leaves_its_argument_as_it_was():
    other = sketch([[3.0, 0.0]])
    mine = TapSketch.empty(2)
    mine.merge(other)
    mine.merge(other)
    assert other == sketch([[3.0, 0.0]])


def test_a_copy_shares_nothing():
    original = sketch([[3.0, 0.0]])
    original.copy().merge(sketch([[1.0, 1.0]]))
    assert original == sketch([[3.0, 0.0]])


def test_a_sketch_equals_no_other_kind_of_thing():
    assert sketch([[1.0]]) != 1


def test_counts_of_a_small_array():
    seen = sketch([[0.0, 2.0**-10, 6.0, np.nan], [-0.0, -7.0, np.inf, -np.inf]], requests=2).counts
    assert astuple(seen) == (8, 2, 3, 1, 1, 1, 0, 2, 2, 2)
    assert seen.nonfinite == 3


def test_subnormals_are_those_of_the_tensors_own_format():
    small = np.array([[1e-6]])
    assert TapSketch.from_array(small.astype(np.float16), NEAR_ZERO, 1).counts.subnormals == 1
    assert TapSketch.from_array(small.astype(np.float32), NEAR_ZERO, 1).counts.subnormals == 0


def test_shares_are_of_all_values():
    seen = sketch([[0.0, 2.0**-11, 6.0, 1.0]])
    assert (seen.zero_share, seen.near_zero_share, seen.outlier_share) == (0.25, 0.5, 0.25)


def test_crest_is_absmax_over_rms():
    assert sketch([[3.0, -4.0, 0.0, 0.0]]).crest == pytest.approx(4 / 2.5)


def test_float16_headroom_counts_doublings():
    assert sketch([[-65504.0 / 8]]).float16_headroom == 3
    assert sketch([[0.0]]).float16_headroom == math.inf


def test_an_empty_sketch_has_no_statistics():
    empty = TapSketch.empty(2)
    assert all(math.isnan(value) for value in (empty.zero_share, empty.absmax, empty.crest, empty.kurtosis))
    assert math.isnan(empty.float16_headroom)
    assert empty.counts.nonfinite == 0


def test_nonfinite_values_enter_no_sum():
    seen = sketch([[np.nan, 2.0], [np.inf, -2.0]])
    assert seen.channels.total.tolist() == [0.0, 0.0]
    assert (seen.moments.n, seen.moments.maximum) == (2, 2.0)


def test_a_channel_that_never_fired_is_dead_within_the_rule_of_three():
    channels = sketch([[0.0, 1.0]] * 30).channels
    assert channels.dead().tolist() == [True, False]
    assert channels.dead_rate_bound == 0.1


def test_no_channel_is_dead_before_anything_was_seen():
    channels = Channels.empty(3)
    assert not channels.dead().any()
    assert channels.dead_rate_bound == 1
    assert np.isnan(channels.mean).all()
    assert np.isnan(channels.variance).all()


def test_channel_means_and_variances_are_those_of_numpy():
    values = np.random.default_rng(1).normal(3, 2, (500, 4)).astype(np.float32)
    channels = sketch(values).channels
    assert np.allclose(channels.mean, values.mean(axis=0, dtype=np.float64), rtol=1e-12)
    assert np.allclose(channels.variance, values.var(axis=0, dtype=np.float64), rtol=1e-10)


def test_arrays_of_the_wrong_shape_are_refused():
    with pytest.raises(SketchError, match="4096 buckets"):
        Histogram(np.zeros(7, dtype=np.int64))
    with pytest.raises(SketchError, match="differ in shape"):
        Channels(0, np.zeros(2, np.int64), np.zeros(3), np.zeros(2), np.zeros(2), np.zeros(2, np.int64))
    with pytest.raises(SketchError, match=r"\[n, 6\]"):
        RequestRows(np.zeros((3, 5)))


def test_columns_of_request_rows_bear_the_names_of_the_statistics():
    rows = RequestRows(np.arange(12.0).reshape(2, 6))
    for index, name in enumerate(ROW_STATISTICS):
        assert getattr(rows, name).tolist() == [index, index + 6]


def test_request_rows_join_in_order():
    rows = RequestRows(np.arange(12.0).reshape(2, 6))
    assert len(RequestRows.concat([])) == 0
    assert RequestRows.concat([rows, RequestRows.empty(), rows]).mean.tolist() == [0, 6, 0, 6]


def test_request_rows_keep_their_weights_and_whether_they_are_common_when_they_join():
    some = RequestRows(np.zeros((2, 6)), np.array([2.0, 3.0]), np.array([True, False]))
    joined = RequestRows.concat([some, RequestRows(np.zeros((1, 6)))])
    assert joined.weights.tolist() == [2, 3, 1]
    assert joined.common.tolist() == [True, False, True]


def test_as_many_weights_as_requests_are_needed():
    with pytest.raises(SketchError, match=r"weights of 3 request rows are \[3\], not \(2,\)"):
        RequestRows(np.zeros((3, 6)), weights=np.ones(2))


def test_a_tap_is_silent_that_saw_no_position():
    taps = [Tap(layer, "resid", f"blocks.{layer}", 2) for layer in range(2)]
    seen = TapSketch.from_array(np.ones((1, 2), np.float32), NEAR_ZERO, 1)
    assert Reading(0.0, {taps[0]: TapSketch.empty(2), taps[1]: seen}, {}, 1).silent == (taps[0],)
