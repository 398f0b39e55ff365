import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import SketchError
from sidecar.sketch import Channels, Histogram, Moments, TapSketch, compact
from sidecar.sketch.counts import Counts

NEAR_ZERO = 2.0**-10


def sketch(seed, rows, channels, scale=1.0, shift=0.0):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((rows, channels)) * scale + shift).astype(np.float32)
    x[rng.random(x.shape) < 0.2] = 0
    return TapSketch.from_array(x, NEAR_ZERO, rows)


def wide(positions, fires, total, squares, absmax, outliers):
    channels = Channels(
        positions,
        np.array(fires, dtype=np.int64),
        np.array(total, dtype=np.float64),
        np.array(squares, dtype=np.float64),
        np.array(absmax, dtype=np.float64),
        np.array(outliers, dtype=np.int64),
    )
    return TapSketch(Counts(positions=positions), Moments.empty(), Histogram.empty(), channels)


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 40),
    st.integers(1, 30),
    st.sampled_from([1e-30, 1e-3, 1.0, 300.0, 1e30]),
    st.sampled_from([0.0, 5.0, -1e4]),
)
def test_what_is_exact_is_exact_and_what_is_rounded_stays_within_its_bound(
    seed, rows, channels, scale, shift
):
    given = sketch(seed, rows, channels, scale, shift)
    back = compact.unpack(compact.pack(given))
    assert back.counts == given.counts
    assert back.moments == given.moments
    assert np.array_equal(back.histogram.counts, given.histogram.counts)
    assert np.array_equal(back.channels.fires, given.channels.fires)
    assert np.array_equal(back.channels.outliers, given.channels.outliers)
    assert np.allclose(back.channels.absmax, given.channels.absmax, rtol=2**-8, atol=1e-38)
    if rows:
        mean = given.channels.mean
        assert np.all(np.abs(back.channels.mean - mean) <= 2**-16 * np.abs(mean) + 1e-38)
        deviation = np.sqrt(given.channels.variance)
        rounding = 1e-7 * np.abs(mean) + 1e-38
        assert np.all(np.abs(np.sqrt(back.channels.variance) - deviation) <= 2**-8 * deviation + rounding)


@settings(deadline=None)
@given(st.integers(65_535, 10**12), st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_large_counts_keep_none_and_all_and_lose_at_most_half_a_step(positions, shares):
    fires = np.array([0, positions, 1, positions - 1, *(int(share * positions) for share in shares)])
    zeros = np.zeros(len(fires))
    back = compact.unpack(compact.pack(wide(positions, fires, zeros, zeros, zeros, fires))).channels
    for seen in (back.fires, back.outliers):
        assert (seen[0], seen[1]) == (0, positions)
        assert 0 < seen[2] < positions
        assert seen[3] <= positions
        assert np.all(np.abs(seen - fires) <= positions / 65_534)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_sketch_that_was_rounded_once_is_not_rounded_again(seed):
    once = compact.unpack(compact.pack(sketch(seed, 20, 6, 3.0, 1.0)))
    twice = compact.unpack(compact.pack(once))
    assert np.array_equal(once.channels.mean, twice.channels.mean)
    assert np.array_equal(once.channels.absmax, twice.channels.absmax)
    assert np.allclose(once.channels.variance, twice.channels.variance, rtol=1e-12)


def test_a_constant_channel_far_from_zero_keeps_a_deviation_of_nothing():
    back = compact.unpack(compact.pack(wide(4, [4], [4e4], [4e8], [1e4], [4])))
    assert back.channels.mean[0] == pytest.approx(1e4, rel=2**-16)
    assert np.sqrt(back.channels.variance[0]) < 1


def test_the_largest_float32_stays_finite():
    largest = float(np.finfo(np.float32).max)
    back = compact.unpack(compact.pack(wide(1, [1], [largest], [largest**2], [largest], [1])))
    assert np.isfinite(back.channels.absmax[0])
    assert back.channels.mean[0] == pytest.approx(largest, rel=2**-7)


def test_it_takes_about_an_eighth_of_the_bytes():
    given = sketch(0, 256, 4096)
    assert len(compact.pack(given)) < len(given.to_bytes()) / 6


@settings(deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused(data):
    stored = bytearray(compact.pack(sketch(1, 9, 4)))
    place = data.draw(st.integers(0, len(stored) - 1))
    stored[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SketchError):
        compact.unpack(bytes(stored))


@pytest.mark.parametrize("length", [0, 3, 60, 150])
def test_bytes_that_were_cut_short_are_refused(length):
    with pytest.raises(SketchError):
        compact.unpack(compact.pack(sketch(1, 9, 4))[:length])
