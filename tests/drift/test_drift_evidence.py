import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drift.classes import ClassShares
from sidecar.drift.evidence import EDetector, Latch, bets, reference_allowance
from sidecar.drift.ranks import normal_scores


def detector(run_length, layers=4, scores=2):
    """The last two of the layers see all others."""
    return EDetector([scores] * layers, run_length, np.full((1, layers), 100_000))


def feed(watched, p):
    return watched.update(normal_scores(p), np.zeros(len(p), dtype=np.int64))


def correlated_p_values(rng, requests, taps=4, scores=2, shift=0.0):
    """Exactly uniform where `shift` is 0; all taps and scores share half their variance."""
    common = rng.normal(size=(requests, 1, 1)) + rng.normal(size=(requests, taps, scores))
    return np.vectorize(lambda z: 0.5 * math.erfc(z / math.sqrt(2)))(common / math.sqrt(2) + shift)


def test_every_bet_integrates_to_one():
    log_odds, step = np.linspace(-30, 30, 100_001, retstep=True)
    p = 1 / (1 + np.exp(-log_odds))
    density = p * (1 - p) * step
    assert np.allclose(density @ bets(p), 1, atol=1e-4)


def test_bets_come_in_mirrored_pairs():
    p = np.array([0.001, 0.2, 0.7])
    assert np.allclose(bets(p)[:, 0::2], bets(1 - p)[:, 1::2])


@given(st.floats(0, 1))
def test_no_p_value_breaks_a_bet(p):
    factors = bets(np.array([p]))
    assert np.all(np.isfinite(factors))
    assert np.all(factors >= 0)


def test_a_larger_reference_needs_less_allowance():
    allowances = [reference_allowance(requests) for requests in (0, 200, 5_000, 100_000)]
    assert np.all(allowances[0] == 1)
    assert np.all(allowances[1] > allowances[2])
    assert np.all(allowances[2] > allowances[3])
    assert np.all(allowances[3] > 1)


def test_the_allowance_is_two_standard_errors_of_a_bets_mean_over_references():
    rng, requests = np.random.default_rng(0), 500
    middles = bets((np.arange(requests + 1) + 0.5) / (requests + 1))
    means = rng.dirichlet(np.ones(requests + 1), size=2000) @ middles
    assert np.allclose(reference_allowance(requests) - 1, 2 * means.std(axis=0), rtol=0.1)


def test_the_average_run_length_is_kept_over_correlated_taps():
    rng, run_length = np.random.default_rng(1), 300
    lengths = []
    for _ in range(40):
        watched = detector(run_length)
        while not watched.model.alarms and watched.judged < 4 * run_length:
            feed(watched, correlated_p_values(rng, 200))
        lengths.append(watched.model.ordinals[0] if watched.model.alarms else 4 * run_length)
    assert np.mean(lengths) >= run_length


def test_a_shift_of_one_sigma_alarms_within_forty_requests():
    rng, watched = np.random.default_rng(2), detector(10_000)
    feed(watched, correlated_p_values(rng, 500))
    assert not watched.model.alarms
    feed(watched, correlated_p_values(rng, 100, shift=1.0))
    assert watched.model.ordinals[0] - 500 <= 40


def test_a_layer_alarm_implies_an_alarm_of_the_model():
    rng, watched = np.random.default_rng(3), detector(1_000)
    p = correlated_p_values(rng, 200)
    p[:, 1] = correlated_p_values(rng, 200, shift=2.0)[:, 1]
    feed(watched, p)
    assert [layer.alarms for layer in watched.layers] == [0, 1, 0, 0]
    assert watched.model.ordinals[0] <= watched.layers[1].ordinals[0]


def test_evidence_falls_and_the_alarm_ends_after_the_shift_does():
    rng, watched = np.random.default_rng(4), detector(10_000)
    feed(watched, correlated_p_values(rng, 300, shift=1.5))
    assert watched.model.active
    feed(watched, correlated_p_values(rng, 600))
    assert not watched.model.active
    assert not any(layer.active for layer in watched.layers)
    assert watched.model_evidence < watched.alarm_level / 2


def test_each_excursion_counts_once():
    rng, watched = np.random.default_rng(5), detector(10_000)
    for _ in range(2):
        feed(watched, correlated_p_values(rng, 200, shift=1.5))
        feed(watched, correlated_p_values(rng, 600))
    assert watched.model.alarms == 2
    first, second = watched.model.ordinals
    assert first <= 200
    assert 800 < second <= 1000


def test_evidence_rests_at_zero_nats():
    watched = detector(1_000)
    assert watched.model_evidence == 0
    assert watched.layer_evidence.tolist() == [0, 0, 0, 0]


def test_alarm_levels_are_logarithms_of_the_run_length_over_the_weight():
    watched = detector(1_000, layers=5)
    assert watched.alarm_level == pytest.approx(math.log(1_000))
    assert watched.layer_alarm_level == pytest.approx(math.log(6_000))


def test_evidence_of_endless_drift_stays_finite():
    watched = detector(1_000)
    feed(watched, np.zeros((2_000, 4, 2)))
    assert watched.layer_alarm_level < watched.layer_evidence[0] < watched.layer_alarm_level + 4


@given(st.lists(st.integers(1, 90), min_size=1, max_size=5))
def test_evidence_does_not_depend_on_how_requests_are_cut_into_readings(sizes):
    p = np.random.default_rng(6).random((sum(sizes), 4, 2))
    whole, parts = detector(1_000), detector(1_000)
    feed(whole, p)
    for part in np.split(p, np.cumsum(sizes)[:-1]):
        feed(parts, part)
    assert np.allclose(whole.layer_evidence, parts.layer_evidence, rtol=1e-12)
    assert whole.judged == parts.judged


def test_a_request_that_missed_a_tap_leaves_its_evidence():
    watched = detector(1_000)
    feed(watched, np.full((5, 4, 2), 0.1))
    before = watched.layer_evidence.copy()
    p = np.full((3, 4, 2), 0.1)
    p[:, 1] = np.nan
    feed(watched, p)
    assert watched.layer_evidence[1] == before[1]
    assert watched.layer_evidence[0] > before[0]


def test_the_classes_of_a_classifier_take_a_quarter_of_the_stake_and_the_layers_what_is_left():
    shares = ClassShares(np.zeros(5_000, np.int64), 2, np.zeros(5_000, np.int64), 1)
    watched = EDetector([2] * 5, 1_000, np.full((1, 5), 100_000), shares)
    alone = [math.log(layer.alarm / 1_000) for layer in watched.layers]
    assert alone == pytest.approx([math.log(12)] * 3 + [math.log(4)] * 3)


def test_a_distribution_that_only_changes_its_form_alarms():
    rng, watched = np.random.default_rng(7), detector(10_000, layers=3)
    feed(watched, rng.random((2_000, 3, 2)))
    assert not watched.model.alarms
    beyond = np.where(rng.random((1_500, 3, 2)) < 0.5, 0.25, 0.75) + rng.uniform(-0.2, 0.2, (1_500, 3, 2))
    feed(watched, beyond)
    assert watched.model.alarms


def test_a_latch_holds_between_alarm_and_clear_level():
    latch = Latch(alarm=100, clear=10)
    latch.update(np.array([99.0, 100.0, 50.0, 200.0, 11.0]), first=1)
    assert (latch.active, latch.alarms) == (True, 1)
    latch.update(np.array([10.0, 99.0, 150.0]), first=6)
    assert (latch.active, latch.alarms, list(latch.ordinals)) == (True, 2, [2, 8])
