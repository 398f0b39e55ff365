"""Which inputs are kept, and that what is kept is a copy."""

from __future__ import annotations

from random import Random
from sys import getsizeof

import numpy as np
import pytest

from sidecar.capture import Reservoir, inputs
from sidecar.types import InferRequest, Tensor


def request(number, size=4):
    return InferRequest(str(number), {"x": Tensor("FP32", np.full((1, size), number, np.float32))}, 1)


def ids(reservoir):
    return [int(one.id) for one in reservoir.kept()]


def test_every_request_is_as_likely_to_be_kept():
    times = np.zeros(20)
    for seed in range(2000):
        reservoir = Reservoir(5, Random(seed), lambda: 5.0)
        for number in range(20):
            reservoir.offer(request(number))
        assert len(ids(reservoir)) == len(set(ids(reservoir))) == 5
        times[ids(reservoir)] += 1
    # 500 times each, give or take four standard deviations.
    assert np.abs(times - 500).max() < 4 * np.sqrt(2000 * 0.25 * 0.75)


def test_what_is_kept_does_not_change_with_the_clients_memory():
    reservoir, given = Reservoir(2, Random(0), lambda: 5.0), request(1)
    reservoir.offer(given)
    given.inputs["x"].array[:] = 9
    (kept,) = reservoir.kept()
    assert (kept.id, kept.at, kept.rows) == ("1", 5.0, 1)
    assert kept.inputs["x"].array.tolist() == [[1, 1, 1, 1]]


def test_a_request_above_its_share_of_the_bytes_is_passed_over(monkeypatch):
    monkeypatch.setattr(inputs, "MOST_BYTES", 4 * (16 + getsizeof("4")))
    reservoir = Reservoir(4, Random(0), lambda: 5.0)
    for size in (4, 5):
        reservoir.offer(request(size, size))
    assert ids(reservoir) == [4]
    assert reservoir.passed_over == 1


@pytest.mark.parametrize(
    ("id", "strings"), [("", [b"0123456789" * 20]), ("", [b""] * 10), ("0123456789" * 20, [])]
)
def test_strings_count_with_their_headers_and_so_does_the_id(monkeypatch, id, strings):
    monkeypatch.setattr(inputs, "MOST_BYTES", 200)
    reservoir = Reservoir(1, Random(0), lambda: 5.0)
    text = Tensor("BYTES", np.array(strings, dtype=np.object_))
    reservoir.offer(InferRequest(id, {"text": text}, 1))
    assert (reservoir.kept(), reservoir.passed_over) == ((), 1)


def test_requests_without_inputs_are_not_kept():
    reservoir = Reservoir(4, Random(0), lambda: 5.0)
    reservoir.offer(InferRequest("attached", {}, 1))
    assert reservoir.kept() == ()


@pytest.mark.parametrize(("always", "expected"), [(False, ["a"]), (True, [])])
def test_what_is_observed_is_offered_and_the_self_check_is_not(make_recorder, always, expected):
    reservoir = Reservoir(4, Random(0), lambda: 5.0)
    recorder = make_recorder(inputs=reservoir)
    recorder.open([InferRequest("a", request(0).inputs, 1)], always=always)
    recorder.close()
    assert [one.id for one in reservoir.kept()] == expected


def test_a_reservoir_that_fails_costs_no_observation(make_recorder):
    class Broken(Reservoir):
        def offer(self, request):
            raise MemoryError

    recorder = make_recorder(inputs=Broken(4, Random(0), lambda: 5.0))
    assert recorder.open([request(0)])
    recorder.close()
    assert recorder.guard.failures["sampling"] == 1
