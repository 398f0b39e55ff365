import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drift.causes import Requests, Suspect, cause, first_suspect, shown
from sidecar.drift.effects import shifts
from sidecar.drift.groups import (
    LEAST_REQUESTS,
    MOST_CLASSES,
    MOST_NAMES,
    NAMELESS,
    Groups,
    class_shares,
    frequent,
    share_changes,
    with_mix_of,
)
from sidecar.drift.scores import FIT_STRIDE
from sidecar.drift.weighted import Weighted
from sidecar.sketch import OutputRows, Reading
from sidecar.types import Tap

NAMES = ("mean", "log_rms")


def suspect(layer=0, passed=True, evidence=1.0, nonfinite=0, site="resid"):
    return Suspect(Tap(layer, site, f"blocks.{layer}", 4), passed, evidence, nonfinite, ((7, -3.0),))


def requests(values, groups=None, ids=(), broken=None, counted=None):
    values = np.asarray(values, dtype=float)
    classes = np.array([""] * len(values) if groups is None else groups)
    broken = np.zeros(len(values), dtype=bool) if broken is None else broken
    counted = np.ones(len(values), dtype=bool) if counted is None else counted
    groups = Groups(classes, np.full(len(values), ""))
    return Requests(Weighted(values, np.ones(len(values))), broken, counted, groups, ids)


def drawn(seed, shift=0.0, classes=(0.5, 0.5), requests_wanted=2000):
    """Requests of two classes whose means lie three apart, moved by `shift`."""
    rng = np.random.default_rng(seed)
    group = rng.choice(len(classes), requests_wanted, p=classes)
    values = rng.normal(size=(requests_wanted, 2)) + np.column_stack([3.0 * group, 0.0 * group]) + [shift, 0]
    return requests(values, group.astype(str), ids=[f"r{i}" for i in range(requests_wanted)])


def test_the_first_layer_in_depth_order_that_passed_is_the_suspect():
    layers = [suspect(5, evidence=9), suspect(3), suspect(1, passed=False, evidence=50)]
    assert first_suspect(layers, model_active=True).tap.layer == 3


def test_where_only_the_model_alarms_the_layer_of_most_evidence_is_the_suspect():
    layers = [suspect(1, passed=False), suspect(2, passed=False, evidence=8)]
    assert first_suspect(layers, model_active=True).tap.layer == 2
    assert first_suspect(layers, model_active=False) is None
    assert first_suspect([], model_active=True) is None


def test_another_mix_of_classes_is_told_apart_from_a_shift_of_the_requests():
    reference = drawn(0)
    mixed = cause(suspect(), NAMES, reference, drawn(1, classes=(0.9, 0.1)))
    shifted = cause(suspect(), NAMES, reference, drawn(2, shift=1.5))
    assert (mixed.kind, mixed.statistic) == ("mix", "mean")
    assert mixed.shift < -0.5
    assert abs(mixed.remaining) < 0.1
    assert [one.group for one in mixed.groups] == ["0", "1"]
    assert shifted.kind == "covariate"
    assert shifted.remaining == pytest.approx(shifted.shift, abs=0.1)
    assert shifted.groups == ()


def test_both_are_reported_where_both_are_there():
    found = cause(suspect(), NAMES, drawn(0), drawn(3, shift=-2.5, classes=(0.8, 0.2)))
    assert found.kind == "covariate"
    assert found.shift < found.remaining < -1
    assert found.groups


def test_a_class_that_is_missing_is_named_and_explains_the_shift():
    found = cause(suspect(), NAMES, drawn(0), drawn(4, classes=(1.0, 0.0)))
    assert found.kind == "mix"
    assert abs(found.remaining) < 0.1
    gone = {one.group: one for one in found.groups}["1"]
    assert (gone.seen, gone.z < 0) == (0, True)


def test_a_handful_of_requests_cannot_stand_for_a_class_that_is_missing():
    window = drawn(4, classes=(1.0, 0.0))
    window.groups.classes[:3] = "1"
    found = cause(suspect(), NAMES, drawn(0), window)
    assert (found.kind, abs(found.remaining) < 0.1) == ("mix", True)


def test_nonfinite_values_are_a_numeric_cause_and_their_requests_the_most_extreme():
    window = drawn(5)
    broken = np.zeros(2000, dtype=bool)
    broken[17] = True
    found = cause(suspect(nonfinite=3), NAMES, drawn(0), replace(window, broken=broken))
    assert found.kind == "numeric"
    assert found.requests[0] == ("r17", math.inf)
    assert "3 values are NaN or infinite" in found.sentence


def test_the_most_extreme_requests_are_named_where_ids_are_kept():
    window = drawn(6)
    window.rows.values[3] = [40, 0]
    found = cause(suspect(), NAMES, drawn(0), window)
    assert found.requests[0][0] == "r3"
    assert found.requests[0][1] > 15
    silent = cause(suspect(), NAMES, drawn(0), requests(window.rows.values, window.groups.classes))
    assert silent.requests == ()


def test_ids_are_shown_as_the_setting_lets_them():
    assert shown(["a"], "none") == ()
    assert shown(["a"], "plain") == ("a",)
    assert shown(["a"], "hashed") == (hashlib.blake2b(b"a", digest_size=8).hexdigest(),)


def test_one_sentence_says_where_what_and_why():
    assert cause(suspect(3), NAMES, drawn(0), drawn(4, classes=(1.0, 0.0))).sentence.startswith(
        "drift begins at layer 3 (resid); mean of requests moved -"
    )


def test_the_sentence_says_what_kind_of_group_changed_its_share():
    said = cause(suspect(3), NAMES, drawn(0), drawn(4, classes=(1.0, 0.0))).sentence
    assert "; the share of class " in said


def test_without_requests_nothing_but_the_layer_is_known():
    found = cause(suspect(2), NAMES, drawn(0), requests(np.empty((0, 2))))
    assert (found.statistic, found.groups, found.requests) == ("", (), ())
    assert math.isnan(found.remaining)


@given(st.integers(0, 300), st.integers(2, 5))
def test_a_window_with_the_reference_s_mix_has_the_shares_of_the_reference(seed, kinds):
    rng = np.random.default_rng(seed)
    sides = []
    for size in (150, 90):
        weights = rng.uniform(0.5, 3, size)
        sides.append(
            (Weighted(rng.normal(size=(size, 2)), weights), rng.integers(0, kinds, size).astype(str))
        )
    (reference, groups), (window, seen) = sides
    ours, theirs = with_mix_of(reference, groups, window, seen)
    common = {
        one for one in set(groups) & set(seen) if min(sum(groups == one), sum(seen == one)) >= LEAST_REQUESTS
    }
    kept, names = groups[np.isin(groups, list(common))], seen[np.isin(seen, list(common))]
    for group in common:
        share = ours.weights[kept == group].sum() / ours.weights.sum()
        assert theirs.weights[names == group].sum() / theirs.weights.sum() == pytest.approx(share)


def test_groups_that_nobody_shares_leave_nothing_to_compare():
    window = requests([[1.0, 2.0]] * 30).rows
    ours, theirs = with_mix_of(window, np.repeat("a", 30), window, np.repeat("b", 30))
    assert np.isnan(shifts(ours, theirs)).all()


def test_a_mix_that_did_not_change_is_rarely_noticed():
    rng = np.random.default_rng(9)
    noticed = [
        share_changes(*(rng.integers(0, 10, size).astype(str) for size in (2000, 300))) for _ in range(100)
    ]
    assert sum(map(len, noticed)) <= 1


def test_no_requests_have_no_changed_shares():
    assert share_changes(np.array([], "U"), np.array(["a"])) == ()


def reading(routes, predicted=None):
    outputs = None
    if predicted is not None:
        zeros = np.zeros(len(predicted))
        outputs = OutputRows(zeros, zeros, np.array(predicted), zeros[:, None])
    return Reading(
        0.0, {}, {}, len(routes), parameters=[{"sidecar_route": one} for one in routes], outputs=outputs
    )


def test_classes_decide_where_there_are_any_and_routes_elsewhere():
    groups = Groups.of([reading(["a", "b"], [3, -1]), reading(["a"])], NAMELESS)
    assert groups.classes.tolist() == ["3", "", ""]
    assert groups.routes.tolist() == ["a", "b", "a"]
    assert groups.deciding is groups.classes
    assert Groups.of([reading(["a"])], NAMELESS).deciding.tolist() == ["a"]


def test_a_reading_without_parameters_has_requests_without_names():
    assert Groups.of([Reading(0.0, {}, {}, 2)], NAMELESS).routes.tolist() == ["", ""]
    assert Groups.of([], NAMELESS).routes.tolist() == []


def test_rare_routes_share_one_name():
    names = [f"r{i}" for i in range(MOST_NAMES)] * FIT_STRIDE + ["other", "rare"]
    assert Groups.of([reading(names)], NAMELESS).routes.tolist()[-1] == "others"


@pytest.mark.parametrize("routes", [60, 80, 100, 300])
def test_routes_that_are_drawn_as_before_are_no_change_however_many_there_are(routes):
    rng = np.random.default_rng(routes)
    recorded = frequent(rng.integers(0, routes, 5000).astype(str))
    window = Groups.of([reading(rng.integers(0, routes, 1000).astype(str).tolist())], recorded)
    counted = np.arange(5000) % FIT_STRIDE != 0
    assert share_changes(recorded[counted], window.routes) == ()


def test_a_new_route_is_named_while_the_reference_has_room():
    names = [f"r{i}" for i in range(MOST_NAMES)]
    roomy = Groups.of([reading(["new", "r1"])], np.array(names[1:]))
    full = Groups.of([reading(["new", "r1"])], np.array(names))
    assert (roomy.routes.tolist(), full.routes.tolist()) == (["new", "r1"], ["others", "r1"])


@given(st.lists(st.integers(0, 120), max_size=300), st.lists(st.integers(0, 120), max_size=300))
def test_a_name_of_the_window_means_the_same_requests_as_in_the_reference(before, now):
    recorded = frequent(np.array(before, dtype=np.str_))
    apart = set(recorded.tolist())
    seen = frequent(np.array(now, dtype=np.str_), recorded).tolist()
    assert len(apart | set(seen) - {"others"}) <= MOST_NAMES + 1
    for number, name in zip(map(str, now), seen, strict=True):
        assert name == (number if number in apart else name)
        if number in set(map(str, before)) - apart:
            assert name == "others"


def test_requests_that_are_not_counted_change_no_share():
    rare = np.repeat(["a", "b"], [900, 900])
    reference = requests(np.zeros((1800, 2)), rare, counted=np.arange(1800) < 1000)
    window = requests(np.zeros((1000, 2)), np.repeat(["a", "b"], [900, 100]))
    assert cause(suspect(), NAMES, reference, window).groups == ()


def test_each_class_has_its_share_in_the_reference_and_now():
    shares = class_shares(np.array([0, 0, 1, 1] * 20), np.array([1, 1, 1, 2, -1]), 3)
    assert [(one.name, one.reference, one.window) for one in shares] == [
        ("0", pytest.approx(1 / 3), 0.0), ("1", pytest.approx(2 / 3), 0.75), ("2", 0.0, 0.25), ("others", 0.0, 0.0),
    ]  # fmt: skip


@given(st.lists(st.integers(-1, 99), min_size=2, max_size=200), st.lists(st.integers(-1, 99), max_size=50))
def test_shares_of_many_classes_are_few_and_add_up(before, now):
    shares = class_shares(np.array(before), np.array(now, dtype=np.int64), 64)
    assert len(shares) == MOST_CLASSES + 1
    for total in (sum(one.reference for one in shares), sum(one.window for one in shares)):
        assert math.isnan(total) or total == pytest.approx(1)


def test_a_window_without_answers_has_no_shares():
    assert all(math.isnan(one.window) for one in class_shares(np.array([0, 1, 2, 0]), np.array([-1]), 3))


def test_shares_of_the_reference_are_not_larger_for_having_chosen_the_class():
    rng = np.random.default_rng(4)
    others = [class_shares(rng.integers(0, 500, 2000), np.array([0]), 64)[-1] for _ in range(40)]
    assert np.mean([one.reference for one in others]) == pytest.approx(490 / 500, abs=0.002)
