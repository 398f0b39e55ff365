"""Scores along the direction in which requests moved lately."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.drift.direction import HORIZONS, Direction

SCORES, REFERENCE = 12, 4_000


def requests(rng, number, shift=0.0):
    """Normal scores that go together by half; `shift` moves all of them."""
    common = rng.normal(size=(number, 1))
    return (common + rng.normal(size=(number, SCORES))) / np.sqrt(2) + shift


def direction(rng):
    covariance = (np.ones((SCORES, SCORES)) + np.eye(SCORES)) / 2
    return Direction(requests(rng, REFERENCE), covariance, np.zeros(REFERENCE, np.int64), 1)


def along(watched, z, rng):
    return watched.normal_scores(z, np.zeros(len(z), np.int64), rng)[:, 0]


def test_without_drift_scores_along_it_are_standard_normal_less_the_pull():
    rng = np.random.default_rng(0)
    scores = along(direction(rng), requests(rng, 20_000), rng)
    assert scores.shape == (20_000, len(HORIZONS))
    assert np.all(scores.mean(axis=0) < 0.03)
    assert np.allclose(scores.std(axis=0), 1, atol=0.05)


def test_the_pull_covers_what_a_small_reference_makes_a_direction_find():
    means = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        covariance = (np.ones((SCORES, SCORES)) + np.eye(SCORES)) / 2
        watched = Direction(requests(rng, 200), covariance, np.zeros(200, np.int64), 1)
        means.append(along(watched, requests(rng, 4_000), rng)[1_000:].mean(axis=0))
    assert np.all(np.mean(means, axis=0) < 0.02)


def test_small_shifts_of_many_scores_add_up():
    rng = np.random.default_rng(1)
    watched = direction(rng)
    along(watched, requests(rng, 1_000), rng)
    alternating = 0.3 * np.resize([1.0, -1.0], SCORES)
    scores = along(watched, requests(rng, 1_000, shift=alternating), rng)
    # Of length 0.3 sqrt(12 / 0.5) once what they have in common is taken out.
    assert scores[500:].mean(axis=0) == pytest.approx(1.47, abs=0.35)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_directions_do_not_depend_on_how_requests_are_cut_into_readings(sizes):
    z = requests(np.random.default_rng(2), sum(sizes))
    whole, parts = direction(np.random.default_rng(3)), direction(np.random.default_rng(3))
    along(whole, z, np.random.default_rng(4))
    for part in np.split(z, np.cumsum(sizes)[:-1]):
        along(parts, part, np.random.default_rng(5))
    assert np.allclose(whole.state()["means"], parts.state()["means"])
    assert np.allclose(whole.state()["block"], parts.state()["block"])


def test_it_goes_on_where_it_was():
    rng = np.random.default_rng(6)
    z = requests(rng, 200, shift=0.5)
    first, second = direction(np.random.default_rng(7)), direction(np.random.default_rng(7))
    along(first, z[:90], np.random.default_rng(8))
    second.resume(first.state())
    later = [along(each, z[90:], np.random.default_rng(9)) for each in (first, second)]
    assert np.array_equal(*later)


@pytest.mark.parametrize(
    "change",
    [
        {"means": np.zeros((3, 5))},
        {"means": np.full((3, SCORES), np.nan)},
        {"block": np.zeros((400, SCORES))},
        {"block": np.zeros(SCORES)},
    ],
)
def test_a_state_of_something_else_is_refused(change):
    watched = direction(np.random.default_rng(10))
    with pytest.raises(ValueError, match=r"none of|take the place"):
        watched.resume({**watched.state(), **change})
