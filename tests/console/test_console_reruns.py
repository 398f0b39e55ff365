"""Kept inputs are run again one by one, no more often and no longer than they may."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from sidecar.console.reruns import MOST_SECONDS, Reruns
from sidecar.errors import ModelError
from sidecar.types import KeptInput, Tap

TAP = Tap(0, "resid", "blocks.0", 3)


class Fake:
    """A replay whose runs take `seconds` on a clock that stands still otherwise."""

    batched, near_zero, passed_over, words = True, 2.0**-10, 0, {}

    def __init__(self, inputs=4, seconds=0.0, failing=()):
        self.now, self.rested, self.ran = 0.0, 0.0, []
        self._seconds, self._failing = seconds, failing
        self.inputs = [KeptInput(str(number), 5.0, {}, 1) for number in range(inputs)]

    def kept(self):
        return tuple(self.inputs)

    def activation(self, tap, kept):
        self.now += self._seconds
        self.ran.append(kept.id)
        if kept.id in self._failing:
            raise ModelError(f"{kept.id} cannot be run again")
        return np.full((1, 2, tap.channels), float(kept.id), np.float32)

    def wait(self, seconds):
        self.rested += seconds
        self.now += seconds


def reruns(fake, share=1.0):
    return Reruns(share, lambda: fake.now, fake.wait)


def test_all_inputs_are_run_once_and_known_the_next_time():
    fake = Fake()
    asked = reruns(fake)
    for _ in range(2):
        found = asked.of(fake, TAP, 1)
        assert [one.values.tolist() for one in found] == [[[number] * 2] for number in range(4)]
    assert fake.ran == ["0", "1", "2", "3"]


def test_an_input_that_is_kept_no_more_is_left_out_and_a_new_one_is_run():
    fake = Fake()
    asked = reruns(fake)
    asked.of(fake, TAP, 1)
    fake.inputs[2] = KeptInput("9", 5.0, {}, 1)
    assert {one.kept.id for one in asked.of(fake, TAP, 1)} == {"0", "1", "3", "9"}
    assert fake.ran[4:] == ["9"]


@pytest.mark.parametrize("other", [(TAP, 2), (Tap(1, "resid", "blocks.1", 3), 1)])
def test_another_neuron_has_them_run_anew(other):
    fake = Fake()
    asked = reruns(fake)
    asked.of(fake, TAP, 1)
    asked.of(fake, *other)
    assert len(fake.ran) == 8


def test_runs_take_the_share_of_a_core_that_they_may():
    fake = Fake(inputs=10, seconds=0.01)
    reruns(fake, share=0.25).of(fake, TAP, 1)
    assert 0.1 / fake.now == pytest.approx(0.25)


def test_what_there_is_no_time_for_is_done_for_the_next_question():
    fake = Fake(inputs=10, seconds=MOST_SECONDS / 4)
    asked = reruns(fake)
    assert [len(asked.of(fake, TAP, 1)) for _ in range(3)] == [4, 8, 10]


def test_an_input_that_fails_is_left_out_and_not_run_again():
    fake = Fake(failing=("1", "2"))
    asked = reruns(fake)
    for _ in range(2):
        assert [one.kept.id for one in asked.of(fake, TAP, 1)] == ["0", "3"]
    assert fake.ran == ["0", "1", "2", "3"]


def test_an_input_that_fails_is_rested_after_like_any_other():
    fake = Fake(inputs=10, seconds=0.01, failing=("3", "9"))
    reruns(fake, share=0.25).of(fake, TAP, 1)
    assert 0.1 / fake.now == pytest.approx(0.25)


def test_only_where_all_inputs_fail_is_it_an_error():
    fake = Fake(inputs=2, failing=("0", "1"))
    asked = reruns(fake)
    for _ in range(2):
        with pytest.raises(ModelError, match="1 cannot be run again"):
            asked.of(fake, TAP, 1)
    assert fake.ran == ["0", "1"]


@pytest.mark.parametrize("failing", [(), ("0",)])
def test_what_was_found_does_not_outlive_its_input(failing):
    fake = Fake(inputs=2, failing=failing)
    asked = reruns(fake)
    asked.of(fake, TAP, 1)
    gone = weakref.ref(fake.inputs.pop(0))
    gc.collect()
    assert gone() is None


def test_nothing_more_is_run_once_nobody_waits():
    fake = Fake()
    asked = Reruns(1.0, lambda: fake.now, lambda _: True)
    assert len(asked.of(fake, TAP, 1)) == 1
