"""Evidence from the shares of predicted classes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drift.classes import ODDS, ClassShares

CLASSES, LEVEL = 10, 1e9


def nobody(requests):
    return np.zeros(len(requests), np.int64)


def shares(reference, classes=CLASSES):
    return ClassShares(reference, classes, nobody(reference), 1)


def even(rng, requests, classes=CLASSES):
    return rng.integers(classes, size=requests)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=300))
def test_no_bet_gains_on_the_shares_of_its_reference(predicted):
    reference = np.array(predicted)
    watched = shares(reference)
    for each in range(CLASSES):
        share = (np.count_nonzero(reference == each)) / len(reference)
        for bet in range(len(ODDS)):
            gain = share * watched._hit[0, each, bet] + (1 - share) * watched._miss[0, each, bet]
            assert gain <= 1 + 1 / len(reference) * (ODDS[bet] == 0)


def test_without_drift_the_wait_for_a_level_is_at_least_that_level():
    rng, waits = np.random.default_rng(0), []
    for _ in range(60):
        watched, course = shares(even(rng, 5_000)), []
        course = watched.update(even(rng, 2_000), np.zeros(2_000, np.int64), LEVEL)
        alarmed = np.flatnonzero(course >= 300)
        waits.append(alarmed[0] + 1 if len(alarmed) else 2_000)
    assert np.mean(waits) >= 300


@pytest.mark.parametrize(
    ("name", "later"),
    [("gone", [0, 1, 2, 4, 5, 6, 7, 8, 9]), ("twice as frequent", [*range(10), 3]), ("new", [*range(11)])],
)
def test_a_change_of_shares_is_found_within_a_few_hundred_requests(name, later):
    rng = np.random.default_rng(1)
    watched = shares(even(rng, 5_000), classes=11)
    drawn = np.array(later)[rng.integers(len(later), size=600)]
    course = watched.update(drawn, nobody(drawn), LEVEL)
    assert course[-1] > 10_000


def test_a_request_without_a_class_changes_nothing():
    rng = np.random.default_rng(2)
    watched = shares(even(rng, 1_000))
    before = watched.update(even(rng, 50), np.zeros(50, np.int64), LEVEL)[-1]
    assert watched.update(np.full(5, -1), np.zeros(5, np.int64), LEVEL).tolist() == [before] * 5


def test_evidence_of_endless_drift_stops_at_twice_the_level():
    watched = shares(even(np.random.default_rng(3), 1_000))
    course = watched.update(np.zeros(5_000, np.int64), np.zeros(5_000, np.int64), 100.0)
    assert 100 <= course[-1] <= 100 * CLASSES * len(ODDS)
    assert math.isfinite(course[-1])


def test_each_stratum_has_shares_of_its_own():
    strata = np.repeat([1, 2], 1_000)
    watched = ClassShares(np.repeat([0, 1], 1_000), 2, strata, 3)
    course = watched.update(np.repeat([1, 0], 300), np.repeat([2, 1], 300), LEVEL)
    # R gains 1 a request at the most as long as nothing is strange.
    assert course[-1] < 600
    course = watched.update(np.zeros(30, np.int64), np.full(30, 2), LEVEL)
    assert course[-1] > 1e6
