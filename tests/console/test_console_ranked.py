"""What sums over many requests tell of how channels go together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.console.ranked import chance, correlation, differences, ranks

PANES = 300


def panes(rng, covariance, requests):
    """Means of requests with this covariance, so many of them in each pane."""
    root = np.linalg.cholesky(np.array(covariance))
    return np.stack([(rng.standard_normal((count, len(root))) @ root.T).mean(axis=0) for count in requests])


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(-3, 3)] * 2), min_size=1, max_size=12))
def test_equal_values_share_the_mean_of_their_ranks(rows):
    values = np.array(rows, dtype=np.float64)
    for column, found in zip(values.T, ranks(values.T), strict=True):
        for value, rank in zip(column, found, strict=True):
            assert rank == np.sum(column < value) + (np.sum(column == value) - 1) / 2


@pytest.mark.parametrize("rho", [-0.6, 0.0, 0.3, 0.9])
def test_the_correlation_over_panes_is_that_over_requests_however_many_each_has(rho):
    rng = np.random.default_rng(1)
    requests = rng.integers(20, 200, PANES).astype(np.float64)
    means = panes(rng, [[1, rho], [rho, 1]], requests.astype(int))
    found = correlation(differences(means, requests), [0])[0, 1]
    assert abs(found - rho) < 4 * chance(PANES - 1)


def test_what_changes_slowly_for_all_is_not_in_it():
    rng = np.random.default_rng(2)
    requests = np.full(PANES, 50.0)
    means = panes(rng, np.eye(2), [50] * PANES) + 2 * np.sin(np.arange(PANES) / PANES * 6)[:, None]
    assert abs(np.corrcoef(means.T)[0, 1]) > 0.95
    assert abs(correlation(differences(means, requests), [0])[0, 1]) < 4 * chance(PANES - 1)


def test_a_single_pane_in_which_all_was_other_does_not_decide():
    rng = np.random.default_rng(3)
    means = panes(rng, np.eye(2), [50] * PANES)
    means[100] += 1000
    series = differences(means, np.full(PANES, 50.0))
    assert np.corrcoef(series.T)[0, 1] > 0.99
    assert abs(correlation(series, [0])[0, 1]) < 4 * chance(PANES - 1)


def test_a_channel_that_never_varies_goes_with_none():
    series = np.column_stack([np.arange(9.0), np.zeros(9), np.arange(9.0)])
    found = correlation(series, [0])[0]
    assert found[[0, 2]] == pytest.approx(1)
    assert np.isnan(found[1])


def test_channels_that_have_nothing_to_do_with_each_other_pass_the_level_as_rarely_as_is_said():
    rng = np.random.default_rng(4)
    channels, runs = 64, 300
    found = []
    for _ in range(runs):
        series = differences(rng.standard_normal((120, channels)), np.ones(120))
        found.append(np.delete(correlation(series, [0])[0], 0))
    assert np.std(found) == pytest.approx(chance(119), rel=0.1)
    assert np.sum(np.max(found, axis=1) > chance(119, channels - 1)) <= 9


def test_of_too_few_differences_any_correlation_may_be_chance():
    assert chance(0) == chance(1) == chance(3, 4096) == 1.0
