import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drift.causes import Requests, Suspect, cause, first_suspect, shown
from sidecar.drift.effects import shifts
from sidecar.drift.groups import LEAST_REQUESTS, MOST_NAMES, Groups, share_changes, with_mix_of
from sidecar.drift.weighted import Weighted
from sidecar.sketch import OutputRows, Reading
from sidecar.types import Tap

NAMES = ("mean", "log_rms")


def suspect(layer=0, passed=True, evidence=1.0, nonfinite=0, site="resid"):
    return Suspect(Tap(layer, site, f"blocks.{layer}", 4), passed, evidence, nonfinite, ((7, -3.0),))


def requests(values, groups=None, ids=(), broken=None):
    values = np.asarray(values, dtype=float)
    classes = np.array([""] * len(values) if groups is None else groups)
    broken = np.zeros(len(values), dtype=bool) if broken is None else broken
    return Requests(
        Weighted(values, np.ones(len(values))), broken, Groups(classes, np.full(len(values), "")), ids
    )


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
    found = cause(
        suspect(nonfinite=3), NAMES, drawn(0), Requests(window.rows, broken, window.groups, window.ids)
    )
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
    groups = Groups.of([reading(["a", "b"], [3, -1]), reading(["a"])])
    assert groups.classes.tolist() == ["3", "", ""]
    assert groups.routes.tolist() == ["a", "b", "a"]
    assert groups.deciding is groups.classes
    assert Groups.of([reading(["a"])]).deciding.tolist() == ["a"]


def test_a_reading_without_parameters_has_requests_without_names():
    assert Groups.of([Reading(0.0, {}, {}, 2)]).routes.tolist() == ["", ""]
    assert Groups.of([]).routes.tolist() == []


def test_rare_routes_share_one_name():
    names = [f"r{i}" for i in range(MOST_NAMES)] * 2 + ["rare"]
    assert Groups.of([reading(names)]).routes.tolist()[-1] == "others"
