import numpy as np
import pytest
from sklearn import covariance

from sidecar.drift import Reference, ReferenceBuilder
from sidecar.drift.scores import SCORES, Scorer, stack_projections
from sidecar.drift.space import MeanSpace
from sidecar.sketch import Reading, RequestRows, TapSketch

WIDTH = 32


def projections(rng, taps, requests, shift=0.0):
    mixing = np.random.default_rng(99).normal(size=(WIDTH, WIDTH))
    return (rng.normal(size=(taps, requests, WIDTH)) @ mixing + shift).astype(np.float32)


def rows(rng, taps, requests):
    values = np.abs(rng.normal(1.0, 0.1, size=(taps, requests, 6)))
    values[..., 5] = 0
    return values


def test_a_distance_is_mahalanobis_with_the_covariance_shrunk_after_ledoit_and_wolf():
    rng = np.random.default_rng(0)
    fitted, seen = projections(rng, 1, 400)[0], projections(rng, 1, 20)[0]
    centre, spread = fitted.mean(axis=0, dtype=float), fitted.std(axis=0, dtype=float)
    shrunk, _ = covariance.ledoit_wolf((fitted - centre) / spread, assume_centered=True)
    away = (seen - centre) / spread
    expected = np.sqrt(np.einsum("ni,ij,nj->n", away, np.linalg.inv(shrunk), away))
    found = MeanSpace.fit(fitted[None]).distances(seen[None])[0]
    assert np.allclose(found, expected, rtol=1e-3)


def test_a_tap_without_projections_has_no_distance_and_the_others_have():
    rng = np.random.default_rng(1)
    some = projections(rng, 2, 100)
    some[1] = np.nan
    found = MeanSpace.fit(some).distances(projections(rng, 2, 5))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()


def test_without_any_projection_there_is_no_distance():
    assert np.isnan(MeanSpace.unknown(2).distances(np.zeros((2, 3, WIDTH), np.float32))).all()
    space = MeanSpace.fit(projections(np.random.default_rng(2), 2, 100))
    assert np.isnan(space.distances(np.zeros((2, 3, 0), np.float32))).all()


def test_an_infinite_projection_is_infinitely_far_and_an_absent_one_nowhere():
    rng = np.random.default_rng(3)
    seen = projections(rng, 1, 2)
    seen[0, 0], seen[0, 1] = np.inf, np.nan
    far, nowhere = MeanSpace.fit(projections(rng, 1, 100)).distances(seen)[0]
    assert np.isposinf(far)
    assert np.isnan(nowhere)


def test_channel_means_that_moved_are_strange_while_all_row_statistics_stand():
    rng = np.random.default_rng(4)
    reference = projections(rng, 2, 2_000)
    space = MeanSpace.fit(reference[:, ::4])
    scorer = Scorer(rows(rng, 2, 2_000), distances=space.distances(reference))
    moved = space.distances(projections(rng, 2, 200, shift=10.0))
    z = scorer.normal_scores(rows(rng, 2, 200), None, None, rng, moved)
    assert scorer.kinds == (7, 7)
    assert np.median(z[..., SCORES.index("channel_means")]) > 2.5
    assert abs(np.median(z[..., SCORES.index("distance")])) < 0.3


def test_the_distance_is_uniform_among_the_references_without_drift():
    rng = np.random.default_rng(5)
    reference = projections(rng, 1, 6_000)
    space = MeanSpace.fit(reference[:, ::4])
    scorer = Scorer(rows(rng, 1, 6_000), distances=space.distances(reference))
    z = scorer.normal_scores(
        rows(rng, 1, 6_000), None, None, rng, space.distances(projections(rng, 1, 6_000))
    )
    column = z[:, 0, SCORES.index("channel_means")]
    assert abs(column.mean()) < 0.06
    assert column.std() == pytest.approx(1.0, abs=0.05)


def test_a_tap_without_distances_has_one_score_less():
    rng = np.random.default_rng(6)
    distances = np.abs(rng.normal(size=(2, 400)))
    distances[1] = np.nan
    scorer = Scorer(rows(rng, 2, 400), distances=distances)
    broken = rows(rng, 2, 3)
    broken[..., 5] = 1
    z = scorer.normal_scores(broken, None, None, rng, np.ones((2, 3)))
    assert scorer.kinds == (7, 6)
    assert (z[:, 0] > 2).all()
    assert np.isnan(z[:, 1, SCORES.index("channel_means")]).all()


def test_a_reference_keeps_the_space_and_not_the_projections(taps, tmp_path):
    rng = np.random.default_rng(7)
    builder = ReferenceBuilder("digits", "1", taps, 100)
    for _ in range(5):
        seen = {
            tap: RequestRows(rows(rng, 1, 20)[0], projections=projections(rng, 1, 20)[0]) for tap in taps[:2]
        }
        builder.add(Reading(1.0, {tap: TapSketch.empty(4) for tap in taps}, seen, 20))
    reference = builder.build()
    reference.save(tmp_path / "a.baseline")
    loaded = Reference.load(tmp_path / "a.baseline")
    assert np.array_equal(loaded.distances, reference.distances, equal_nan=True)
    assert np.isfinite(loaded.distances[:2]).all()
    assert np.isnan(loaded.distances[2]).all()
    again = projections(rng, 3, 5)
    turned = loaded.arranged(taps[::-1]).space.distances(again[::-1])
    assert np.array_equal(turned[::-1], reference.space.distances(again), equal_nan=True)
    assert not any(WIDTH in part.shape[-1:] and 100 in part.shape for part in reference.members().values())


def test_projections_are_stacked_in_order_and_missing_ones_are_absent(taps):
    ones = RequestRows(np.zeros((4, 6)), projections=np.ones((4, WIDTH), np.float32))
    stacked = stack_projections({taps[2]: ones, taps[0]: RequestRows(np.zeros((4, 6)))}, taps)
    assert stacked.shape == (3, 4, WIDTH)
    assert np.isnan(stacked[:2]).all()
    assert (stacked[2] == 1).all()
    assert stack_projections({}, taps).shape == (3, 0, 0)
