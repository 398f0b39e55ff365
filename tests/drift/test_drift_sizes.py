import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.drift.between import between, between_at_taps
from sidecar.drift.effects import shifts
from sidecar.drift.recent import Described, Recent
from sidecar.drift.reference import ReferenceBuilder
from sidecar.drift.scores import FEATURES, features, stack_rows
from sidecar.drift.sizes import EffectSizes, Expected, effect_sizes
from sidecar.drift.weighted import Weighted
from sidecar.sketch import Reading, RequestRows, TapSketch


@pytest.fixture(scope="module")
def expected(make_traffic):
    """What is expected at three taps, from 120 requests."""
    traffic = make_traffic()
    taps = list(traffic.reading(1).sketches)
    builder = ReferenceBuilder("m", "1", taps, 120)
    while not builder.complete:
        builder.add(traffic.reading(5))
    reference = builder.build()
    described = features(reference.rows)
    return taps, [
        Expected.of(sketch, Weighted(rows, reference.weights), nodrift)
        for sketch, rows, nodrift in zip(reference.sketches, described, reference.nodrift, strict=True)
    ]


def seen_by(traffic, taps, requests, missed):
    """A window of so many requests, the same ones described, and how many each tap missed."""
    reading = traffic.reading(requests, shifts={1: 0.5})
    values = features(stack_rows(reading.rows, taps))
    for tap, request in missed:
        values[tap, request % requests] = np.nan
    weights = np.random.default_rng(requests).uniform(1, 3, requests)
    return [reading.sketches[tap] for tap in taps], Described(values, weights)


MISSED = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30)), max_size=8)


def close(one, other):
    numbers = [
        [*(getattr(each, name) for name in EffectSizes.__slots__ if name != "levels"), *each.levels.values()]
        for each in (one, other)
    ]
    return numbers[0] == pytest.approx(numbers[1], nan_ok=True)


@settings(max_examples=25)
@given(st.integers(1, 30), MISSED)
def test_effect_sizes_of_all_taps_are_those_of_each_alone(expected, make_traffic, requests, missed):
    taps, known = expected
    windows, seen = seen_by(make_traffic(seed=requests), taps, requests, missed)
    together = effect_sizes(known, windows, seen)
    for tap, found in enumerate(together):
        alone = Described(seen.values[tap : tap + 1], seen.weights)
        assert close(found, effect_sizes([known[tap]], [windows[tap]], alone)[0])


@settings(max_examples=25)
@given(st.integers(1, 30), MISSED)
def test_requests_that_missed_a_tap_have_no_part_in_its_effects(expected, make_traffic, requests, missed):
    taps, known = expected
    windows, seen = seen_by(make_traffic(seed=requests), taps, requests, missed)
    for tap, found in enumerate(effect_sizes(known, windows, seen)):
        reached = seen.at(tap).known()
        alone = Described(reached.values[None], reached.weights)
        assert close(found, effect_sizes([known[tap]], [windows[tap]], alone)[0])


def test_the_mean_shift_is_the_largest_of_the_shifts_less_what_it_averages(expected, make_traffic):
    taps, known = expected
    windows, seen = seen_by(make_traffic(seed=1), taps, 30, [])
    found = effect_sizes(known, windows, seen)[1]
    moved = shifts(known[1].rows, seen.at(1))
    assert found.shifted == int(np.argmax(np.abs(moved)))
    assert 0 < found.mean_shift < abs(moved).max()


def test_a_tap_without_values_leaves_the_others_what_they_are(expected, make_traffic):
    taps, known = expected
    windows, seen = seen_by(make_traffic(seed=1), taps, 30, [])
    beside = effect_sizes(known, [TapSketch.empty(4), *windows[1:]], seen)
    assert math.isnan(beside[0].psi)
    assert close(beside[1], effect_sizes(known, windows, seen)[1])


@settings(max_examples=25)
@given(st.integers(1, 30), MISSED)
def test_what_is_between_requests_at_all_taps_is_that_of_each_alone(expected, make_traffic, requests, missed):
    taps, known = expected
    _, seen = seen_by(make_traffic(seed=requests), taps, requests, missed)
    scales = [one.scale for one in known]
    for given_scales in (scales, None):
        together = between_at_taps(seen, given_scales, [0.5] * 3, [1.0] * 3)
        for tap, found in enumerate(together):
            alone = between(seen.at(tap), given_scales and given_scales[tap], 0.5, 1.0)
            numbers = [[getattr(each, name) for name in each.__slots__] for each in (found, alone)]
            assert numbers[0] == pytest.approx(numbers[1], nan_ok=True)


def test_recent_requests_are_described_reading_by_reading_in_order(make_traffic, taps):
    traffic, recent = make_traffic(), Recent(taps)
    readings = [traffic.reading(n) for n in (3, 1, 4)]
    for window in (readings[:2], readings, readings[1:], []):
        described = recent.described(window)
        stacked = [features(stack_rows(one.rows, taps)) for one in window]
        whole = np.concatenate([np.empty((len(taps), 0, len(FEATURES))), *stacked], axis=1)
        assert described.values.tolist() == whole.tolist()
        assert len(described) == sum(one.requests for one in window)


def test_a_request_that_a_tap_never_saw_is_described_by_nan(make_traffic, taps):
    rows = {taps[1]: RequestRows(np.ones((2, 6)), weights=np.array([1.0, 4.0]))}
    described = Recent(taps).described([Reading(0.0, {}, rows, 2)])
    assert np.isnan(described.values[[0, 2]]).all()
    assert described.weights.tolist() == [1.0, 4.0]
