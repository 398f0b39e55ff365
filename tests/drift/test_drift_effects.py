import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drift.effects import (
    CELLS,
    Cells,
    frechet,
    histogram_distances,
    jensen_shannon,
    largest,
    population_stability,
    shares,
    shifts,
    signed_counts,
    worst_channels,
)
from sidecar.drift.weighted import Weighted
from sidecar.sketch import TapSketch, edges


def sketch(values, requests=1):
    return TapSketch.from_array(np.asarray(values, dtype=np.float32), 2.0**-10, requests)


def drawn(seed, cells=6):
    return np.random.default_rng(seed).dirichlet(np.ones(cells))


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_divergences_are_symmetric_bounded_and_zero_only_between_equals(a, b):
    p, q = drawn(a), drawn(b)
    assert population_stability(p, q) == pytest.approx(population_stability(q, p))
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p))
    assert 0 <= jensen_shannon(p, q) + 1e-12 <= 1
    assert (population_stability(p, q) > 1e-9) == (a != b)


def test_psi_of_a_known_pair():
    p, q = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    assert population_stability(p, q) == pytest.approx(0.25 * math.log(2) + 0.25 * math.log(1.5))


def test_cells_have_equal_mass_as_far_as_buckets_allow():
    values = np.random.default_rng(0).normal(0.3, 2, (20_000, 4))
    counts = signed_counts(sketch(values))
    cells = Cells.equal_mass(counts)
    assert CELLS - 4 <= cells.number <= CELLS
    assert shares(cells.counts(counts)).max() < 2 / CELLS


def test_zeros_are_their_own_cell_where_they_carry_mass():
    values = np.maximum(np.random.default_rng(1).normal(size=(5_000, 4)), 0)
    counts = signed_counts(sketch(values))
    cells = Cells.equal_mass(counts)
    alone = np.flatnonzero(cells.group == cells.group[2048])
    assert alone.tolist() == [2048]
    assert shares(cells.counts(counts))[cells.group[2048]] == pytest.approx(0.5, abs=0.02)


def test_no_cell_is_ever_empty():
    cells = Cells.equal_mass(signed_counts(sketch(np.random.default_rng(2).normal(size=(100, 4)))))
    assert np.all(shares(cells.counts(np.zeros(4097, dtype=np.int64))) > 0)


def test_grouped_counts_of_many_histograms_are_those_of_each():
    rng = np.random.default_rng(3)
    parts = np.stack([signed_counts(sketch(rng.normal(shift, 1, (50, 4)))) for shift in (0, 1, 2)])
    cells = Cells.equal_mass(parts.sum(axis=0))
    assert np.array_equal(cells.counts(parts), np.stack([cells.counts(part) for part in parts]))
    assert cells.counts(parts).sum() == parts.sum()


def distances(first, second, sigma=1.0):
    """Of two samples, by their histograms."""
    one, other = (signed_counts(sketch(values[:, None])) for values in (first, second))
    at = np.flatnonzero(one + other)
    ks, wasserstein = histogram_distances(one[at], other[at], at, sigma)
    return float(ks), float(wasserstein)


@st.composite
def samples(draw):
    """Two float32 samples of one size, zeros and both signs among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.integers(2, 300))
    found = []
    for _ in range(2):
        values = rng.normal(draw(st.floats(-5, 5)), draw(st.floats(0.1, 4)), size)
        values[rng.random(size) < draw(st.floats(0, 0.5))] = 0
        found.append(values.astype(np.float32))
    return found


def rounded_up(values):
    """Each value moved to the edge of its bucket that its distribution function jumps at."""
    magnitude = edges()
    cell = np.searchsorted(magnitude, np.abs(values), side="left")
    return np.where(values >= 0, magnitude[cell], -magnitude[np.maximum(cell - 1, 0)])


@given(samples())
def test_the_kolmogorov_smirnov_distance_is_that_of_values_moved_to_the_edges_of_their_buckets(pair):
    first, second = (np.sort(rounded_up(values)) for values in pair)
    points = np.concatenate([first, second])
    gaps = [np.searchsorted(side, points, side="right") / len(side) for side in (first, second)]
    ks, _ = distances(*pair)
    assert ks == pytest.approx(np.abs(gaps[0] - gaps[1]).max(), abs=1e-12)


@given(samples())
def test_the_wasserstein_distance_is_that_of_the_values_up_to_the_width_of_their_buckets(pair):
    exact = np.mean(np.abs(np.sort(pair[0].astype(float)) - np.sort(pair[1].astype(float))))
    width = sum(np.mean(np.abs(values)) for values in pair) / 8
    _, wasserstein = distances(*pair, sigma=2.0)
    assert abs(2.0 * wasserstein - exact) <= width + 1e-9


@given(samples(), samples())
def test_histogram_distances_are_metrics(pair, other):
    a, b, c = *pair, other[0]
    for kind in (0, 1):
        assert distances(a, a)[kind] == 0
        assert distances(a, b)[kind] == pytest.approx(distances(b, a)[kind])
        assert distances(a, c)[kind] <= distances(a, b)[kind] + distances(b, c)[kind] + 1e-9


def test_a_shift_of_gaussian_values_is_its_own_wasserstein_distance():
    rng = np.random.default_rng(4)
    assert distances(rng.normal(0, 2, 50_000), rng.normal(3, 2, 50_000), sigma=2.0)[1] == pytest.approx(
        1.5, rel=0.02
    )


def test_without_spread_a_wasserstein_distance_is_nan():
    assert math.isnan(distances(np.ones(3), np.ones(3), sigma=0.0)[1])


@pytest.mark.parametrize("width", [1, 3, 8])
def test_the_frechet_distance_is_that_of_the_matrix_square_root(width):
    rng = np.random.default_rng(width)
    means, covariances = rng.normal(size=(2, width)), []
    for _ in range(2):
        factor = rng.normal(size=(width, width))
        covariances.append(factor @ factor.T)
    values = np.linalg.eigvals(covariances[0] @ covariances[1])
    exact = np.sum((means[0] - means[1]) ** 2) + np.trace(sum(covariances)) - 2 * np.sqrt(values.real).sum()
    assert frechet(means[0], covariances[0], means[1], covariances[1]) == pytest.approx(exact)
    assert frechet(means[0], covariances[0], means[0], covariances[0]) == pytest.approx(0, abs=1e-7)


def equal(values):
    return Weighted(values, np.ones(len(values)))


def test_the_largest_shift_is_in_sigmas_of_the_reference_and_names_its_column():
    reference = np.column_stack([np.tile([-1.0, 1.0], 500), np.tile([8.0, 12.0], 500)])
    window = np.column_stack([[0.0, 0.1, math.nan], [5.0, 7.0, 6.0]])
    moved = shifts(equal(reference), equal(window))
    assert moved.tolist() == pytest.approx([0.05, -2.0])
    assert largest(moved) == 1


def test_the_largest_shift_of_weighted_requests_is_that_of_as_many_equal_ones():
    rng = np.random.default_rng(8)
    sides = [(rng.normal(size=(40, 3)), rng.integers(1, 9, 40)) for _ in range(2)]
    weighted = [Weighted(values, weights.astype(float)) for values, weights in sides]
    repeated = [equal(values.repeat(weights, axis=0)) for values, weights in sides]
    assert shifts(*weighted) == pytest.approx(shifts(*repeated))


@pytest.mark.parametrize(
    ("reference", "window"),
    [([[1.0], [2.0]], np.empty((0, 1))), (np.empty((0, 1)), [[1.0]]), ([[1.0], [1.0]], [[2.0]])],
)
def test_the_largest_shift_without_requests_or_spread_is_nan(reference, window):
    moved = shifts(equal(np.array(reference)), equal(np.array(window)))
    assert np.isnan(moved).all()
    assert largest(moved) == -1


def test_the_channel_that_moved_most_comes_first_with_its_sign():
    rng = np.random.default_rng(5)
    reference = rng.normal(0, [1, 2, 1, 1], (4_000, 4))
    moved = rng.normal([0, -3, 0, 0.7], [1, 2, 1, 1], (4_000, 4))
    (first, second, _) = worst_channels(sketch(reference), sketch(moved))
    assert first == (1, pytest.approx(-1.5, abs=0.1))
    assert second == (3, pytest.approx(0.7, abs=0.1))


def test_a_constant_channel_that_moves_has_a_finite_shift():
    reference = np.random.default_rng(6).normal(size=(100, 2))
    reference[:, 1] = 0
    moved = reference + np.array([0, 1])
    ((channel, shift), _) = worst_channels(sketch(reference), sketch(moved))
    assert channel == 1
    assert shift == pytest.approx(1_000, rel=0.5)


def test_worst_channels_of_an_empty_window_are_none():
    assert worst_channels(sketch([[1.0]]), TapSketch.empty(1)) == []
