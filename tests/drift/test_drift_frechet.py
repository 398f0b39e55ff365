import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.drift import Reference, ReferenceBuilder
from sidecar.drift.comparison import expected_of
from sidecar.drift.effects import frechet, frechet_from
from sidecar.drift.frechet import SIZES, Gaussians
from sidecar.drift.monitor import DriftMonitor
from sidecar.drift.recent import Described
from sidecar.drift.scores import features, stack_projections, stack_rows
from sidecar.drift.sizes import effect_sizes
from sidecar.drift.space import MeanSpace
from sidecar.settings import DriftSettings
from sidecar.sketch import PROJECTIONS, Reading, RequestRows, TapSketch, project
from sidecar.timeline import Timeline
from sidecar.types import Tap

TAP = Tap(0, "resid", "blocks.0", 64)


def correlated(rng, requests, taps=1, width=PROJECTIONS):
    """Projections with an offset, a scale of their own each, and a third of their variance in common."""
    own = rng.normal(size=(taps, requests, width)) + 0.7 * rng.normal(size=(taps, requests, 1))
    return (own * np.arange(1, width + 1) + 5).astype(np.float32)


def gaussian(rng, size):
    values = rng.normal(size=(4 * size, size))
    return values.mean(axis=0), np.cov(values.T, bias=True).reshape(size, size)


def square_root(matrix):
    values, vectors = np.linalg.eig(matrix)
    return vectors @ np.diag(np.sqrt(values.astype(complex))) @ np.linalg.inv(vectors)


@given(st.integers(0, 1000), st.integers(1, 5))
def test_the_distance_is_that_of_the_textbook(seed, size):
    rng = np.random.default_rng(seed)
    (mean, covariance), (other_mean, other) = gaussian(rng, size), gaussian(rng, size)
    # Dowson and Landau: tr(A + B - 2 (AB)**(1/2)), of the product itself.
    exact = np.sum((mean - other_mean) ** 2) + np.trace(
        covariance + other - 2 * square_root(covariance @ other).real
    )
    assert frechet(mean, covariance, other_mean, other) == pytest.approx(exact, rel=1e-6, abs=1e-9)
    factor = np.linalg.cholesky(covariance)
    assert frechet_from(mean, factor, other_mean, other) == pytest.approx(exact, rel=1e-6, abs=1e-9)


@given(st.integers(0, 1000))
def test_equal_gaussians_are_no_distance_apart(seed):
    mean, covariance = gaussian(np.random.default_rng(seed), 4)
    assert frechet_from(mean, np.linalg.cholesky(covariance), mean, covariance) == pytest.approx(0, abs=1e-9)


def known(seed, requests=1000, taps=1):
    rng = np.random.default_rng(seed)
    seen = correlated(rng, requests, taps)
    reference = Gaussians.of(MeanSpace.fit(seen[:, ::4]))
    others = np.delete(seen, slice(None, None, 4), axis=1)
    return reference, reference.measure(others, rng), others, rng


def test_the_reference_has_the_covariance_of_its_space_in_its_own_sigmas():
    seen = correlated(np.random.default_rng(1), 4000)
    reference = Gaussians.of(MeanSpace.fit(seen))
    assert reference.centres[0] == pytest.approx(seen[0].mean(axis=0), rel=1e-4)
    assert reference.sigmas[0] == pytest.approx(seen[0].std(axis=0), rel=1e-3)
    factor = reference.factors[0]
    assert factor @ factor.T == pytest.approx(np.corrcoef(seen[0].T), abs=0.02)


def test_a_distance_is_that_of_the_weighted_gaussian_of_the_window_in_sigmas():
    reference, nodrift, _, rng = known(2)
    window, weights = correlated(rng, 90) + 2, rng.uniform(1, 3, 90)
    standard = (window[0].astype(float) - reference.centres[0]) / reference.sigmas[0]
    factor = reference.factors[0]
    exact = frechet(
        np.zeros(PROJECTIONS), factor @ factor.T,
        np.average(standard, axis=0, weights=weights), np.cov(standard.T, aweights=weights, bias=True),
    )  # fmt: skip
    assert reference.distances(window, weights, nodrift).found[0] == pytest.approx(exact)


@pytest.mark.parametrize("requests", [2, 5, 20, 60, 300])
def test_resampled_requests_of_the_reference_average_zero_less_the_no_drift_mean(requests):
    reference, nodrift, others, rng = known(3)
    found = []
    for _ in range(60):
        window = others[:, rng.permutation(others.shape[1])[:requests]]
        found.append(reference.distances(window, np.ones(requests), nodrift))
    mean = np.mean([one.found - one.mean for one in found])
    assert abs(mean) < 0.15 * found[0].mean[0]
    assert np.mean([one.found > one.level for one in found]) <= 0.05


def test_new_requests_without_drift_average_about_zero_too():
    less, raw = [], []
    for seed in range(8):
        reference, nodrift, _, rng = known(seed, 2000)
        for _ in range(5):
            one = reference.distances(correlated(rng, 100), np.ones(100), nodrift)
            less.append(one.found - one.mean)
            raw.append(one.found)
    assert abs(np.mean(less)) < 0.1 * np.mean(raw)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 39)), max_size=6))
def test_distances_of_all_taps_are_those_of_each_alone_without_the_requests_it_missed(requests, missed):
    reference, nodrift, _, _ = KNOWN
    window, weights = correlated(np.random.default_rng(requests), requests, 3), np.ones(requests)
    weights[::2] = 2.5
    for tap, request in missed:
        window[tap, request % requests] = np.nan
    together = reference.distances(window, weights, nodrift)
    for tap in range(3):
        reached = ~np.isnan(window[tap, :, 0])
        one = Gaussians(*(getattr(reference, name)[tap : tap + 1] for name in Gaussians.__slots__))
        alone = one.distances(window[tap : tap + 1, reached], weights[reached], nodrift[tap : tap + 1])
        for name in ("found", "mean", "level"):
            assert getattr(together, name)[tap] == pytest.approx(
                getattr(alone, name)[0], rel=1e-6, abs=1e-9, nan_ok=True
            )


KNOWN = known(4, 400, 3)


def test_what_the_reference_or_the_window_does_not_know_stays_unknown():
    reference, nodrift, _, rng = known(5, 400, 2)
    window = correlated(rng, 30, 2)
    without = np.full_like(nodrift, math.nan)
    for projections, curve in (
        (window[:, :, :0], nodrift), (window[:0, :0, :0], nodrift), (window[:, :1], nodrift), (window, without),
    ):  # fmt: skip
        weights = np.ones(projections.shape[1])
        assert np.isnan(reference.distances(projections, weights, curve).found).all()
    nothing = Gaussians.of(MeanSpace.unknown(2))
    assert np.isnan(nothing.measure(window[:, :, :0], rng)).all()
    assert np.isnan(nothing.distances(window, np.ones(30), without).found).all()


def test_a_tap_without_projections_leaves_the_others_theirs():
    rng = np.random.default_rng(6)
    seen = correlated(rng, 300, 2)
    seen[0] = np.nan
    reference = Gaussians.of(MeanSpace.fit(seen))
    nodrift = reference.measure(seen, rng)
    assert np.isnan(nodrift[0]).all()
    found = reference.distances(seen[:, :50], np.ones(50), nodrift).found
    assert np.isnan(found).tolist() == [True, False]


def test_levels_fall_with_the_size_of_the_window_and_stay_above_the_mean():
    _, nodrift, _, _ = known(7)
    mean, level = nodrift[0]
    assert (level > mean).all()
    assert (np.diff(mean) < 0).all()
    assert nodrift.shape == (1, 2, len(SIZES))


def test_projections_that_never_vary_are_no_distance_apart():
    seen = np.zeros((1, 200, PROJECTIONS), np.float32)
    seen[..., :4] = np.random.default_rng(8).normal(size=(1, 200, 4))
    reference = Gaussians.of(MeanSpace.fit(seen))
    nodrift = reference.measure(seen, np.random.default_rng(8))
    one = reference.distances(seen, np.ones(200), nodrift)
    assert one.found - one.mean == pytest.approx(0, abs=0.1)


def reading(rng, at, requests, order):
    """Channels with means of their own, in `order`, which no statistic over all values of a request can tell."""
    profile = np.linspace(-1, 1, TAP.channels)[order]
    values = (profile + rng.normal(size=(requests, 8, TAP.channels)) * 0.5).astype(np.float32)
    flat = values.reshape(requests, -1).astype(float)
    centred = flat - flat.mean(axis=1, keepdims=True)
    statistics = np.column_stack(
        [
            flat.mean(axis=1),
            np.sqrt(np.mean(flat**2, axis=1)),
            np.abs(flat).max(axis=1),
            np.zeros(requests),
            np.mean(centred**4, axis=1) / np.mean(centred**2, axis=1) ** 2,
            np.zeros(requests),
        ]
    )
    means = project(values.mean(axis=1).astype(float)).astype(np.float32)
    rows = RequestRows(statistics, projections=means)
    return Reading(at, {TAP: TapSketch.from_array(values, 2.0**-10, requests)}, {TAP: rows}, requests)


@pytest.fixture(scope="module")
def recorded():
    rng, builder = np.random.default_rng(9), ReferenceBuilder("m", "1", [TAP], 400)
    while not builder.complete:
        builder.add(reading(rng, 1.0, 20, np.arange(TAP.channels)))
    return builder.build(), rng


def sizes(reference, window, *, projected):
    seen = Described(features(stack_rows(window.rows, [TAP])), window.weights)
    distances = Gaussians.of(reference.space).distances(
        stack_projections(window.rows, [TAP]), window.weights, reference.mean_nodrift
    )
    sketches = [window.sketches[TAP]]
    return effect_sizes(expected_of(reference), sketches, seen, distances if projected else None)[0]


def test_channel_means_that_changed_places_are_seen_though_no_statistic_sees_them(recorded):
    reference, rng = recorded
    turned = reading(rng, 2.0, 100, np.roll(np.arange(TAP.channels), 5))
    blind, found = (sizes(reference, turned, projected=projected) for projected in (False, True))
    assert blind.frechet < blind.levels["frechet"]
    assert not blind.frechet_of_channel_means
    assert found.frechet > 10 * found.levels["frechet"]
    assert found.frechet_of_channel_means
    assert found.times_level > 10
    assert found.psi == blind.psi


def test_the_no_drift_distances_of_channel_means_are_kept_in_the_file(recorded, tmp_path):
    reference, _ = recorded
    reference.save(tmp_path / "m.baseline")
    loaded = Reference.load(tmp_path / "m.baseline")
    assert not np.isnan(reference.mean_nodrift).any()
    assert loaded.mean_nodrift.tolist() == reference.mean_nodrift.tolist()


def test_a_monitor_tells_the_distance_of_channel_means_of_its_window(recorded):
    reference, rng = recorded
    timeline = Timeline([TAP], 10.0, 60, lambda: 1000.0)
    monitor = DriftMonitor("m", "1", [TAP], DriftSettings(), timeline, reference, np.random.default_rng(0))
    drifted = reading(rng, 1000.0, 100, np.roll(np.arange(TAP.channels), 5))
    timeline.add(drifted)
    monitor.observe(drifted)
    effects = monitor.state().layers[0].effects
    assert effects.frechet_of_channel_means
    assert effects.frechet == pytest.approx(sizes(reference, drifted, projected=True).frechet)
