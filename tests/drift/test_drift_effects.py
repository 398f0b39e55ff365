import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drift.effects import (
    CELLS,
    Cells,
    NoDriftScale,
    Weighted,
    divergences,
    jensen_shannon,
    largest_shift,
    population_stability,
    signed_counts,
    worst_channels,
)
from sidecar.drift.instability import instability
from sidecar.drift.reference import ReferenceBuilder
from sidecar.sketch import RequestRows, TapSketch


def sketch(values, requests=1):
    return TapSketch.from_array(np.asarray(values, dtype=np.float32), 2.0**-10, requests)


def rows(means):
    values = np.zeros((len(means), 6))
    values[:, 0] = means
    return RequestRows(values)


def shares(seed, cells=6):
    return np.random.default_rng(seed).dirichlet(np.ones(cells))


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_divergences_are_symmetric_bounded_and_zero_only_between_equals(a, b):
    p, q = shares(a), shares(b)
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
    assert cells.shares(counts).max() < 2 / CELLS


def test_zeros_are_their_own_cell_where_they_carry_mass():
    values = np.maximum(np.random.default_rng(1).normal(size=(5_000, 4)), 0)
    counts = signed_counts(sketch(values))
    cells = Cells.equal_mass(counts)
    alone = np.flatnonzero(cells.group == cells.group[2048])
    assert alone.tolist() == [2048]
    assert cells.shares(counts)[cells.group[2048]] == pytest.approx(0.5, abs=0.02)


def test_no_cell_is_ever_empty():
    cells = Cells.equal_mass(signed_counts(sketch(np.random.default_rng(2).normal(size=(100, 4)))))
    assert np.all(cells.shares(np.zeros(4097, dtype=np.int64)) > 0)


def test_corrected_divergences_average_zero_without_drift(make_traffic, taps):
    """Half the variance is common to a request, and a window has requests enough for a raw PSI of 0.02."""
    corrected, raw = [], []
    for seed in range(24):
        traffic = make_traffic(seed=seed, within=0.5)
        builder = ReferenceBuilder("m", "1", taps[:1], 320)
        while not builder.complete:
            builder.add(traffic.reading(5))
        reference = builder.build()
        expected, cells = reference.sketches[0], Cells.equal_mass(signed_counts(reference.sketches[0]))
        window = traffic.reading(60).sketches[taps[0]]
        corrected.append(divergences(cells, reference.scales[0], expected, window))
        raw.append(divergences(cells, NoDriftScale(0.0, 0.0), expected, window))
    mean, error = np.mean(corrected, axis=0), np.std(corrected, axis=0) / math.sqrt(24)
    assert np.all(np.abs(mean) < 3 * error)
    assert np.all(np.abs(mean) < 0.25 * np.mean(raw, axis=0))


def test_drift_far_exceeds_the_no_drift_value(make_traffic, taps):
    traffic = make_traffic(seed=3)
    builder = ReferenceBuilder("m", "1", taps[:1], 200)
    while not builder.complete:
        builder.add(traffic.reading(5))
    reference = builder.build()
    cells = Cells.equal_mass(signed_counts(reference.sketches[0]))
    window = traffic.reading(60, shifts={0: 1.0}).sketches[taps[0]]
    psi, js = divergences(cells, reference.scales[0], reference.sketches[0], window)
    assert psi > 0.5
    assert js > 0.05


def test_one_chunk_tells_no_scale():
    counts = signed_counts(sketch([[1.0, 2.0]]))
    scale = NoDriftScale.measure(Cells.equal_mass(counts), counts, 1, [(counts, 1)])
    assert math.isnan(scale.psi)
    assert math.isnan(scale.jensen_shannon)


def test_the_scale_counts_that_a_chunk_is_part_of_the_whole():
    rng = np.random.default_rng(7)
    halves = [signed_counts(sketch(rng.normal(shift, 1, (500, 4)))) for shift in (0.0, 0.5)]
    whole = halves[0] + halves[1]
    cells = Cells.equal_mass(whole)
    differences = [population_stability(cells.shares(half), cells.shares(whole)) for half in halves]
    scale = NoDriftScale.measure(cells, whole, 20, [(half, 10) for half in halves])
    assert scale.psi == pytest.approx(np.mean(differences) / (1 / 10 - 1 / 20))


def test_divergences_of_an_empty_window_are_nan():
    reference = sketch([[1.0, 2.0]])
    cells = Cells.equal_mass(signed_counts(reference))
    assert all(map(math.isnan, divergences(cells, NoDriftScale(1, 1), reference, TapSketch.empty(2))))


def equal(values):
    return Weighted(values, np.ones(len(values)))


def test_the_largest_shift_is_in_sigmas_of_the_reference_and_names_its_column():
    reference = np.column_stack([np.tile([-1.0, 1.0], 500), np.tile([8.0, 12.0], 500)])
    window = np.column_stack([[0.0, 0.1, math.nan], [5.0, 7.0, 6.0]])
    assert largest_shift(equal(reference), equal(window)) == (1, pytest.approx(-2.0))


def test_the_largest_shift_of_weighted_requests_is_that_of_as_many_equal_ones():
    rng = np.random.default_rng(8)
    sides = [(rng.normal(size=(40, 3)), rng.integers(1, 9, 40)) for _ in range(2)]
    weighted = [Weighted(values, weights.astype(float)) for values, weights in sides]
    repeated = [equal(values.repeat(weights, axis=0)) for values, weights in sides]
    assert largest_shift(*weighted) == pytest.approx(largest_shift(*repeated))


@pytest.mark.parametrize(
    ("reference", "window"),
    [([[1.0], [2.0]], np.empty((0, 1))), (np.empty((0, 1)), [[1.0]]), ([[1.0], [1.0]], [[2.0]])],
)
def test_the_largest_shift_without_requests_or_spread_is_nan(reference, window):
    column, shift = largest_shift(equal(np.array(reference)), equal(np.array(window)))
    assert column == -1
    assert math.isnan(shift)


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


def test_signs_of_instability_compare_window_and_reference():
    window = sketch([[0.0, 8.0, np.nan], [0.0, -65504.0 / 4, 1.0]])
    signs = instability(window, sketch([[1.0, 2.0, -4.0]]))
    assert signs.nonfinite == 1
    assert signs.headroom == 2
    assert signs.absmax_growth == 65504 / 16
    assert signs.dead_channels == 1
    assert signs.dead_rate_bound == 1


def test_absmax_growth_needs_a_reference_that_is_not_zero():
    assert math.isnan(instability(sketch([[1.0]]), None).absmax_growth)
    assert math.isnan(instability(sketch([[1.0]]), sketch([[0.0]])).absmax_growth)
