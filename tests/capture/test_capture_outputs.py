"""What a classifier answered, kept by request."""

import numpy as np
import pytest

from sidecar.capture import Outputs, logits_among
from sidecar.errors import ConfigError
from sidecar.types import Tensor, TensorSpec

RNG = np.random.default_rng(0)


def outputs(classes=10, slots=8):
    return Outputs(TensorSpec("logits", "FP32", (-1, classes)), slots)


def answer(logits, datatype="FP32"):
    return {"logits": Tensor(datatype, logits)}


def slots(*numbers):
    return np.array(numbers, dtype=np.int32)


def test_energy_margin_and_class_are_those_of_the_logits():
    logits = RNG.normal(size=(3, 10)).astype(np.float32)
    watched = outputs()
    watched.add(answer(logits), slots(0, -1, 1), bank=0)
    seen = watched.take(0, used=2)
    kept = logits[[0, 2]].astype(np.float64)
    ordered = np.sort(kept, axis=1)
    assert np.allclose(seen.energy, np.log(np.exp(kept).sum(axis=1)))
    assert np.allclose(seen.margin, ordered[:, -1] - ordered[:, -2])
    assert seen.predicted.tolist() == kept.argmax(axis=1).tolist()
    assert np.allclose(seen.logits, kept)


def test_rows_of_one_request_are_averaged():
    logits = RNG.normal(size=(2, 10)).astype(np.float32)
    watched = outputs()
    watched.add(answer(logits), slots(0, 0), bank=0)
    assert np.allclose(watched.take(0, used=1).logits, logits.mean(axis=0))


def test_large_logits_do_not_overflow():
    watched = outputs(classes=2)
    watched.add(answer(np.array([[3e4, 0.0]], np.float32)), slots(0), bank=0)
    assert watched.take(0, used=1).energy[0] == 3e4


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_has_infinite_energy(broken):
    watched = outputs(classes=3)
    watched.add(answer(np.array([[1.0, broken, 0.0]], np.float32)), slots(0), bank=0)
    assert np.isinf(watched.take(0, used=1).energy[0])


def test_a_request_that_was_not_answered_says_nothing():
    seen = outputs().take(0, used=1)
    assert np.isnan(seen.energy[0])
    assert seen.predicted.tolist() == [-1]


def test_bank_and_slots_are_empty_after_they_were_taken():
    watched = outputs()
    watched.add(answer(np.ones((2, 10), np.float32)), slots(0, 1), bank=1)
    assert np.isnan(watched.take(0, used=2).energy).all()
    assert not np.isnan(watched.take(1, used=2).energy).any()
    assert np.isnan(watched.take(1, used=2).energy).all()


def test_bfloat16_logits_are_read_as_their_values():
    bits = (np.array([[1.0, 2.0, -3.0]], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    watched = outputs(classes=3)
    watched.add(answer(bits, "BF16"), slots(0), bank=0)
    assert watched.take(0, used=1).logits.tolist() == [[1.0, 2.0, -3.0]]


def test_many_classes_are_projected_the_same_way_by_everyone_and_keep_distances_on_average():
    logits = RNG.normal(size=(400, 1_000)).astype(np.float32)
    seen = []
    for _ in range(2):
        watched = outputs(classes=1_000, slots=400)
        watched.add(answer(logits), np.arange(400, dtype=np.int32), bank=0)
        seen.append(watched.take(0, used=400).logits)
    assert seen[0].shape == (400, 64)
    assert np.array_equal(*seen)
    assert np.mean(seen[0] ** 2) * 64 == pytest.approx(np.mean(logits**2) * 1_000, rel=0.05)


def test_more_rows_than_the_batch_has_are_refused():
    with pytest.raises(ValueError, match="3 rows, the batch 1 at most"):
        outputs().add(answer(np.ones((3, 10), np.float32)), slots(0), bank=0)


SPECS = (
    TensorSpec("logits", "FP32", (-1, 10)),
    TensorSpec("other", "FP32", (-1, 5)),
    TensorSpec("ids", "INT64", (-1, 5)),
)


@pytest.mark.parametrize(("named", "found"), [(None, "logits"), ("other", "other"), ("", None)])
def test_logits_are_found_by_their_name_or_as_the_settings_say(named, found):
    spec = logits_among(SPECS, named)
    assert (spec.name if spec else None) == found


@pytest.mark.parametrize("named", ["ids", "nothing"])
def test_an_output_that_holds_no_logits_is_refused(named):
    with pytest.raises(ConfigError, match=f"logits is '{named}'"):
        logits_among(SPECS, named)
