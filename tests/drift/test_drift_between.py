import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drift.between import (
    autocorrelation,
    between,
    dimensions,
    of_channel_means,
    self_similarity,
    sign_changes,
)
from sidecar.drift.projected import KEPT, Projected
from sidecar.drift.weighted import Scale, Weighted


def requests(values):
    return Weighted(np.asarray(values, dtype=float), np.ones(len(values)))


UNIT = Scale(np.zeros(2), np.ones(2))


@given(st.integers(1, 12), st.integers(0, 500))
def test_equal_variance_in_k_directions_counts_k(k, seed):
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(12, 12)))
    covariance = basis[:, :k] @ basis[:, :k].T
    assert dimensions(covariance) == pytest.approx((k, k))


@given(st.integers(0, 500))
def test_the_participation_ratio_is_traces_and_lies_below_the_effective_rank(seed):
    factor = np.random.default_rng(seed).normal(size=(6, 6))
    covariance = factor @ factor.T
    participation, rank = dimensions(covariance)
    assert participation == pytest.approx(np.trace(covariance) ** 2 / np.trace(covariance @ covariance))
    assert 1 <= participation <= rank <= 6


def test_nothing_that_varies_has_no_dimensions():
    assert all(map(math.isnan, dimensions(np.zeros((3, 3)))))


def test_a_layer_that_answers_all_alike_away_from_the_reference_resembles_itself():
    rng = np.random.default_rng(0)
    alike = between(requests(rng.normal([5, 5], 0.1, (200, 2))), UNIT, 1 / 200, 1.0)
    free = between(requests(rng.normal(size=(2000, 2))), UNIT, 1.0, 1.0)
    assert alike.self_similarity > 0.99
    assert abs(free.self_similarity) < 0.1
    assert (alike.distinct_share, free.distinct_share) == (1 / 200, 1)


def test_self_similarity_is_the_mean_cosine_of_neighbours():
    assert self_similarity(np.array([[1.0, 0], [0, 2], [0, 3], [0, 0]])) == pytest.approx(0.5)
    assert math.isnan(self_similarity(np.zeros((3, 2))))


@given(st.integers(0, 500))
def test_autocorrelation_is_that_of_the_definition(seed):
    course = np.random.default_rng(seed).normal(size=30)
    centred = course - course.mean()
    exact = sum(centred[i] * centred[i + 1] for i in range(29)) / sum(centred**2)
    assert autocorrelation(course) == pytest.approx(exact)


def test_what_alternates_has_negative_autocorrelation_and_crosses_its_median_always():
    course = np.tile([1.0, -1.0], 100)
    assert autocorrelation(course) == pytest.approx(-0.995)
    assert sign_changes(course) == 1
    assert math.isnan(autocorrelation(np.ones(5)))
    assert math.isnan(sign_changes(np.ones(5)))


def test_independent_requests_cross_the_median_half_of_the_time():
    assert sign_changes(np.random.default_rng(1).normal(size=4000)) == pytest.approx(0.5, abs=0.03)


def test_the_share_of_variance_between_requests_is_that_of_their_means():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(300, 1)) + rng.normal(size=(300, 50)) * 2
    points = np.column_stack([values.mean(axis=1), rng.normal(size=300)])
    found = between(requests(points), None, 1.0, float(values.var()))
    assert found.variance_share == pytest.approx(values.mean(axis=1).var() / values.var())


def test_two_requests_tell_only_whether_they_differ():
    found = between(requests([[1.0, 2], [3, 4]]), None, 1.0, 1.0)
    assert found.distinct_share == 1
    assert all(
        math.isnan(value) for value in (found.effective_rank, found.self_similarity, found.autocorrelation)
    )


def test_requests_that_missed_the_tap_are_left_out():
    points = np.random.default_rng(3).normal(size=(20, 2))
    holes = np.insert(points, 5, np.nan, axis=0)
    assert between(requests(holes), UNIT, 1.0, 1.0) == between(requests(points), UNIT, 1.0, 1.0)


def of_a_tap():
    return [between(requests(np.random.default_rng(1).normal(size=(50, 2))), UNIT, 1.0, 1.0)]


def test_directions_are_those_of_channel_means_where_they_are_projected():
    rng = np.random.default_rng(2)
    flat = np.zeros((1, 400, 32), np.float32)
    flat[..., :7] = rng.normal(size=(1, 400, 7))
    (found,) = of_channel_means(of_a_tap(), flat, np.ones(400), np.zeros((1, 32), np.float32))
    assert found.of_channel_means
    assert found.participation_ratio == pytest.approx(7, rel=0.05)
    assert found.effective_rank == pytest.approx(7, rel=0.05)
    assert abs(found.self_similarity) < 0.1


def test_requests_that_all_left_the_references_centre_alike_resemble_each_other():
    rng = np.random.default_rng(3)
    away = rng.normal(4, 0.1, size=(1, 100, 32)).astype(np.float32)
    centres = np.zeros((1, 32), np.float32)
    assert of_channel_means(of_a_tap(), away, np.ones(100), centres)[0].self_similarity > 0.99
    unknown = np.empty((0, 0), np.float32)
    assert abs(of_channel_means(of_a_tap(), away, np.ones(100), unknown)[0].self_similarity) < 0.2


@pytest.mark.parametrize("shape", [(1, 50, 0), (1, 2, 32), (0, 0, 0)])
def test_without_projections_they_stay_those_of_the_statistics(shape):
    projections = np.zeros(shape, np.float32)
    kept = of_a_tap()
    assert of_channel_means(kept, projections, np.ones(shape[1]), np.zeros((1, 32), np.float32)) == kept
    assert not kept[0].of_channel_means


@given(st.lists(st.integers(0, 400), min_size=1, max_size=8), st.integers(0, 600))
def test_the_newest_projections_are_kept_in_order(sizes, wanted):
    kept, whole = Projected(), np.arange(sum(sizes), dtype=np.float32).reshape(1, -1, 1)
    for part in np.split(whole, np.cumsum(sizes)[:-1], axis=1):
        kept.add(part)
    expected = whole[0, max(sum(sizes) - min(wanted, KEPT), 0) :, 0]
    assert kept.newest(wanted)[0, :, 0].tolist() == expected.tolist()
