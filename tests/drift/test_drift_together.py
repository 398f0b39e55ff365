"""All taps as one layer more."""

import numpy as np
import pytest

from sidecar.drift.scores import SCORES
from sidecar.drift.together import Together

TAPS, WIDTH = 8, len(SCORES)
DISTANCE, MEAN = SCORES.index("distance"), SCORES.index("mean")


def normal_scores(rng, requests, width=WIDTH):
    """Of taps that repeat each other by half."""
    common = rng.normal(size=(requests, 1, width))
    return (common + rng.normal(size=(requests, TAPS, width))) / np.sqrt(2)


def together(rng, width=WIDTH):
    others = normal_scores(rng, 3_000, width)
    return Together(normal_scores(rng, 1_000, width), others, np.zeros(3_000, np.int64), 1, TAPS)


def z_of(watched, rng, seen):
    return watched.normal_scores(seen, np.zeros(len(seen), np.int64), rng)[:, 0]


@pytest.mark.parametrize("width", [WIDTH, WIDTH - 1])
def test_without_drift_its_scores_are_standard_normal(width):
    rng = np.random.default_rng(0)
    watched = together(rng, width)
    z = z_of(watched, rng, normal_scores(rng, 4_000, width))
    assert z.shape == (4_000, width)
    assert np.all(np.abs(z.mean(axis=0)) < 0.1)
    assert np.allclose(z.std(axis=0), 1, atol=0.06)


@pytest.mark.parametrize("score", range(1, len(SCORES)))
def test_a_shift_that_all_taps_share_is_larger_there_than_at_any_of_them(score):
    rng = np.random.default_rng(1)
    watched = together(rng)
    seen = normal_scores(rng, 2_000)
    seen[..., score] += 0.4
    z = z_of(watched, rng, seen).mean(axis=0)
    # Of length 0.4 sqrt(1' C^-1 1), C with 1 on its diagonal and a half beside it.
    assert z[score] == pytest.approx(0.4 * np.sqrt(TAPS / (0.5 + TAPS / 2)), abs=0.08)
    assert np.all(np.abs(np.delete(z, [DISTANCE, score])) < 0.12)


def test_taps_that_contradict_each_other_are_far_although_each_is_as_usual():
    rng = np.random.default_rng(2)
    watched = together(rng)
    seen = normal_scores(rng, 500)
    seen[..., MEAN] = np.resize([1.4, -1.4], TAPS) + 0.1 * rng.normal(size=(500, TAPS))
    z = z_of(watched, rng, seen)
    assert z[:, DISTANCE].mean() > 1.0
    assert abs(z[:, MEAN].mean()) < 0.4


def test_a_tap_that_was_not_reached_is_in_the_middle():
    rng = np.random.default_rng(3)
    watched = together(rng)
    seen = normal_scores(rng, 100)
    seen[:, 3] = np.nan
    assert np.isfinite(z_of(watched, rng, seen)).all()
