"""Bets on the form of a distribution."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drift.form import CELLS, form_allowance, form_bet


def learned(z):
    """What is bet on each of z, in order."""
    shares = np.full(CELLS, 1 / CELLS)
    return np.array([form_bet(shares, each) for each in z]), shares


@given(st.lists(st.floats(-9, 9), max_size=30))
def test_a_bet_has_mean_one_over_cells_of_equal_probability(seen):
    _, shares = learned(seen)
    middles = np.sort(np.random.default_rng(0).normal(size=4_001))[125::250]
    assert np.mean([form_bet(shares.copy(), each) for each in middles]) == pytest.approx(1)
    assert shares.sum() == pytest.approx(1)


def test_nothing_is_bet_before_anything_was_seen():
    bets, _ = learned([1.7])
    assert bets[0] == pytest.approx(1)


def test_bets_grow_where_values_gather_and_shrink_elsewhere():
    bets, shares = learned(np.full(600, 0.1))
    assert np.all(np.diff(bets) > 0)
    assert form_bet(shares, 2.0) < 0.6


def test_what_the_error_of_a_reference_gains_is_allowed_for():
    rng, requests = np.random.default_rng(1), 400
    gained = []
    for _ in range(2_000):
        shares = rng.dirichlet(np.full(CELLS, (requests + 1) / CELLS))
        gained.append(CELLS * np.sum(shares**2))
    assert np.mean(np.array(gained) <= form_allowance(requests)) > 0.95
    assert form_allowance(requests) < 1.1
