import math

import numpy as np
import pytest
from sklearn import covariance

from sidecar.drift.scores import SCORES as ALL_SCORES
from sidecar.drift.scores import Scorer, stack_rows
from sidecar.drift.whitening import ledoit_wolf
from sidecar.sketch import OutputRows, RequestRows

SCORES = ALL_SCORES[:-1]
"""Those of a tap without projections."""


def rows(rng, requests, taps=1, grain=None):
    """Plausible request rows, float64[taps, n, 6]; `grain` rounds them so that ties are common."""
    normal = rng.normal(size=(taps, requests, 5))
    columns = [
        normal[..., 0],
        np.exp(0.1 * normal[..., 1]),
        5 * np.exp(0.1 * normal[..., 1] + 0.1 * normal[..., 2]),
        0.3 + 0.05 * normal[..., 3],
        3 * np.exp(0.2 * np.abs(normal[..., 4])),
        np.zeros((taps, requests)),
    ]
    stacked = np.stack(columns, axis=-1)
    return np.round(stacked / grain) * grain if grain else stacked


def p_values(scorer, rows, rng):
    """What the normal scores are the quantiles of, float64[n, taps, scores]."""
    z = scorer.normal_scores(rows, None, None, rng)
    return np.vectorize(lambda z: 0.5 * math.erfc(z / math.sqrt(2)), otypes=[float])(z)


def distance_from_uniform(p):
    """Largest gap between the empirical distribution and the uniform one (Kolmogorov-Smirnov)."""
    ordered = np.sort(p)
    return np.abs(ordered - (np.arange(len(p)) + 0.5) / len(p)).max()


@pytest.mark.parametrize("grain", [None, 0.5])
def test_p_values_are_uniform_without_drift_ties_or_not(grain):
    rng = np.random.default_rng(0)
    p = p_values(Scorer(rows(rng, 8_000, grain=grain)), rows(rng, 8_000, grain=grain), rng)
    assert p.shape == (8_000, 1, len(SCORES))
    for score in range(len(SCORES)):
        assert distance_from_uniform(p[:, 0, score]) < 0.035, SCORES[score]


def test_p_values_are_uniform_on_average_over_small_references():
    rng = np.random.default_rng(1)
    parts = [p_values(Scorer(rows(rng, 60)), rows(rng, 40), rng)[:, 0] for _ in range(200)]
    for score, p in zip(SCORES, np.concatenate(parts).T, strict=True):
        assert distance_from_uniform(p) < 0.035, score


@pytest.mark.parametrize(("column", "score"), [(0, "mean"), (2, "log_absmax"), (3, "near_zero_share")])
def test_a_statistic_far_up_has_the_smallest_p_and_far_down_the_largest(column, score):
    rng = np.random.default_rng(2)
    strange = rows(rng, 2)
    strange[0, 0, column], strange[0, 1, column] = 1e3, -1e3
    p = p_values(Scorer(rows(rng, 1_000)), strange, rng)[:, 0]
    high, low = p[:, SCORES.index(score)]
    assert high < 1 / 1_000
    assert low > 1 - 1 / 1_000
    assert p[0, SCORES.index("distance")] < 1 / 700


def test_an_unusual_pair_of_usual_statistics_is_found_by_the_distance():
    rng = np.random.default_rng(3)
    reference = rows(rng, 4_000)
    pair = np.median(reference, axis=1, keepdims=True)
    pair[0, 0, 1], pair[0, 0, 2] = np.exp(0.2), 5 * np.exp(-0.2)
    p = p_values(Scorer(reference), pair, rng)[0, 0]
    assert p[SCORES.index("distance")] < 0.01
    assert 0.01 < p[SCORES.index("log_absmax")] < 0.99


def test_nothing_is_stranger_than_a_nonfinite_value():
    rng = np.random.default_rng(4)
    broken = rows(rng, 2)
    broken[0, :, 5] = 1
    broken[0, 1, :5] = np.nan
    assert np.all(p_values(Scorer(rows(rng, 1_000)), broken, rng) < 1 / 700)


def test_a_request_that_did_not_reach_the_tap_has_no_p_value():
    rng = np.random.default_rng(5)
    absent = np.full((1, 1, 6), np.nan)
    assert np.all(np.isnan(p_values(Scorer(rows(rng, 100)), absent, rng)))


def test_absent_and_broken_reference_requests_are_no_part_of_the_fit():
    rng = np.random.default_rng(6)
    reference = rows(rng, 4_000)
    reference[0, ::10] = np.nan
    reference[0, 1::10, :5], reference[0, 1::10, 5] = np.nan, 3
    scorer = Scorer(reference)
    assert scorer.ranks.sizes[0, 0] == pytest.approx(0.9 * 3_000, rel=0.1)
    p = p_values(scorer, rows(rng, 4_000), rng)[:, 0, 0]
    assert p.mean() == pytest.approx(0.1 + 0.9 / 2 + 0.005, abs=0.03)


def test_a_tap_that_no_reference_request_reached_says_nothing():
    rng = np.random.default_rng(7)
    p = p_values(Scorer(np.full((1, 100, 6), np.nan)), rows(rng, 4_000), rng)
    assert distance_from_uniform(p[:, 0, 0]) < 0.035


def test_constant_statistics_are_no_obstacle():
    rng = np.random.default_rng(8)
    constant = np.zeros((1, 400, 6))
    constant[..., 4] = np.nan
    p = p_values(Scorer(constant), constant, rng)
    assert distance_from_uniform(p[:, 0, 0]) < 0.08


def test_p_values_repeat_with_the_seed():
    reference = rows(np.random.default_rng(9), 100)
    seen = [p_values(Scorer(reference), reference, np.random.default_rng(1)) for _ in range(2)]
    assert np.array_equal(*seen)


def test_taps_are_stacked_in_order_and_missing_ones_are_absent(taps):
    brought = {taps[2]: RequestRows(np.ones((4, 6))), taps[0]: RequestRows(np.zeros((4, 6)))}
    stacked = stack_rows(brought, taps)
    assert stacked.shape == (3, 4, 6)
    assert np.all(stacked[0] == 0)
    assert np.all(np.isnan(stacked[1]))
    assert np.all(stacked[2] == 1)
    assert stack_rows({}, taps).shape == (3, 0, 6)


@pytest.mark.parametrize("requests", [30, 2_000])
def test_shrinkage_is_ledoits_and_wolfs(requests):
    rng = np.random.default_rng(10)
    vectors = rng.normal(size=(requests, 12)) @ rng.normal(size=(12, 12))
    centred = vectors - vectors.mean(axis=0)
    expected, _ = covariance.ledoit_wolf(centred, assume_centered=True)
    assert np.allclose(ledoit_wolf(centred), expected)


def test_what_never_varies_has_an_inverse():
    assert np.linalg.inv(ledoit_wolf(np.zeros((10, 3)))).shape == (3, 3)


def test_an_output_that_is_far_off_is_strange_at_the_layer_after_the_taps():
    rng = np.random.default_rng(11)

    def answers(requests, shift=0.0):
        logits = rng.normal(size=(requests, 4)) + shift
        ordered = np.sort(logits, axis=1)
        energy = np.log(np.exp(logits).sum(axis=1))
        return OutputRows(energy, ordered[:, -1] - ordered[:, -2], logits.argmax(axis=1), logits)

    scorer = Scorer(rows(rng, 2_000), answers(2_000))
    z = scorer.normal_scores(rows(rng, 50), answers(50, shift=6.0), None, rng)
    assert scorer.kinds == (6, 3)
    assert np.all(z[:, 1, :2] > 2.5)
    assert np.all(np.isnan(z[:, 1, 3:]))
