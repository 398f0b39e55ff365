import math

import numpy as np
import pytest

from sidecar.drift.effects import Cells
from sidecar.drift.nodrift import EFFECTS, NoDrift, measure, spread
from sidecar.drift.recent import Described
from sidecar.drift.reference import ReferenceBuilder
from sidecar.drift.scores import features
from sidecar.drift.sizes import Expected, effect_sizes
from sidecar.drift.weighted import Weighted
from sidecar.sketch import TapSketch


def expect(traffic, tap, requests):
    builder = ReferenceBuilder("m", "1", [tap], requests)
    while not builder.complete:
        builder.add(traffic.reading(5))
    reference = builder.build()
    sketch = reference.sketches[0]
    rows = Weighted(features(reference.rows)[0], reference.weights)
    return Expected.of(sketch, rows, reference.nodrift[0])


def sizes(expected, reading, tap):
    rows = reading.rows[tap]
    seen = Described(features(rows.values)[None], rows.weights)
    return effect_sizes([expected], [reading.sketches[tap]], seen)[0]


@pytest.fixture(scope="module")
def stationary(make_traffic):
    """Effects of 64 windows of 60 requests without drift, against 8 references of 640."""
    found = []
    for seed in range(8):
        traffic = make_traffic(seed=seed, within=0.5)
        tap = next(iter(traffic.reading(1).sketches))
        expected = expect(traffic, tap, 640)
        found += [sizes(expected, traffic.reading(60), tap) for _ in range(8)]
    return found


@pytest.mark.parametrize("effect", ["psi", "jensen_shannon", "kolmogorov_smirnov", "wasserstein"])
def test_an_effect_averages_zero_without_drift_though_values_of_a_request_depend(stationary, effect):
    seen = np.array([getattr(one, effect) for one in stationary])
    error = seen.std() / math.sqrt(8)
    assert abs(seen.mean()) < 3 * error
    assert abs(seen.mean()) < 0.05 * stationary[0].levels[effect]


def test_without_drift_effects_rarely_reach_their_no_drift_level(stationary):
    assert np.mean([one.times_level > 1 for one in stationary]) <= 0.05
    assert np.median([one.times_level for one in stationary]) > 0.2


@pytest.mark.parametrize("effect", EFFECTS)
def test_drift_far_exceeds_the_no_drift_level(traffic, taps, effect):
    expected = expect(traffic, taps[0], 200)
    drifted = sizes(expected, traffic.reading(60, shifts={0: 1.5}), taps[0])
    assert getattr(drifted, effect) > drifted.levels[effect]
    assert drifted.times_level > 2


def test_a_mean_shift_keeps_its_sign_and_never_passes_zero_by_its_correction(traffic, taps):
    expected = expect(traffic, taps[0], 200)
    smaller = traffic.reading(60, edit=lambda _, values: np.multiply(values, 0.3, out=values))
    assert sizes(expected, smaller, taps[0]).mean_shift < -1
    same = [sizes(expected, traffic.reading(20), taps[0]).mean_shift for _ in range(10)]
    assert 0 in np.abs(same)


def test_levels_fall_with_the_number_of_requests(traffic, taps):
    expected = expect(traffic, taps[0], 400)
    few, many = (sizes(expected, traffic.reading(n), taps[0]).levels for n in (10, 100))
    for effect in EFFECTS:
        ratio = (1 / 10 + 1 / 400) / (1 / 100 + 1 / 400)
        power = 1 if effect in ("psi", "jensen_shannon", "frechet") else 0.5
        assert few[effect] / many[effect] == pytest.approx(ratio**power)


def test_an_empty_window_has_no_effect_sizes(traffic, taps):
    expected = expect(traffic, taps[0], 40)
    nobody = Described(np.empty((1, 0, 5)), np.empty(0))
    (empty,) = effect_sizes([expected], [TapSketch.empty(4)], nobody)
    assert math.isnan(empty.psi)
    assert (empty.shifted, math.isnan(empty.times_level)) == (-1, True)


def found_with(chunks, requests):
    counts = np.zeros(4097, dtype=np.int64)
    counts[2100:2140] = 5
    rows = Weighted(np.random.default_rng(0).normal(size=(requests, 5)), np.ones(requests))
    return measure(Cells.equal_mass(counts), [(counts, 10)] * chunks, rows, 1.0, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("chunks", "requests", "mean", "level"),
    [(1, 9, 0, 0), (2, 10, 6, 0), (7, 39, 6, 0), (8, 40, 6, 6), (2, 400, 6, 2), (8, 0, 4, 4)],
)
def test_a_mean_needs_two_parts_and_a_level_eight(chunks, requests, mean, level):
    found = found_with(chunks, requests)
    assert [np.count_nonzero(~np.isnan(one)) for one in (found.mean, found.level)] == [mean, level]


def test_nothing_is_known_of_an_unknown_reference():
    assert np.isnan([NoDrift.unknown().mean, NoDrift.unknown().level] * spread(np.ones(6), np.ones(6))).all()


def test_the_same_requests_give_the_same_levels(make_traffic, taps):
    first, second = (expect(make_traffic(seed=2), taps[0], 80).nodrift for _ in range(2))
    assert first == second
