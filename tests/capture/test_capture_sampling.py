"""Which requests are chosen, and what becomes of telemetry's own errors."""

from __future__ import annotations

import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.capture import Drainer, Guard


@pytest.fixture(scope="session")
def chosen(ungoverned, make_request):
    """Whether each of many requests is chosen."""

    def chosen(count=4000, **settings):
        governor = ungoverned(**settings)
        return [governor.sample(make_request(number)) is not None for number in range(count)]

    return chosen


@given(st.text(max_size=50), st.floats(0, 1))
def test_the_same_id_gives_the_same_answer_in_another_process(ungoverned, make_request, id, rate):
    one, other = (ungoverned(sample_rate=rate, sample_key="k") for _ in range(2))
    assert one.sample(make_request(id)) == other.sample(make_request(id))


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_the_share_of_chosen_requests_is_close_to_the_rate(chosen, rate):
    answers = chosen(sample_rate=rate)
    assert abs(sum(answers) / len(answers) - rate) < 4 * math.sqrt(rate * (1 - rate) / len(answers))


@pytest.mark.parametrize(("rate", "share"), [(0.0, 0), (1.0, 1)])
def test_nothing_and_everything_are_exact(chosen, rate, share):
    assert sum(chosen(1000, sample_rate=rate)) == 1000 * share


@given(st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=30)
def test_a_higher_rate_keeps_whom_a_lower_rate_chose(chosen, one, other):
    low, high = (chosen(300, sample_rate=rate) for rate in sorted([one, other]))
    assert all(b for a, b in zip(low, high, strict=True) if a)


def test_another_key_chooses_others(chosen):
    one, other = (chosen(sample_rate=0.1, sample_key=key) for key in ("a", "b"))
    both = sum(a and b for a, b in zip(one, other, strict=True))
    assert both < 0.5 * sum(one)


@pytest.mark.parametrize("choice", [True, False])
@pytest.mark.parametrize("honoured", [True, False])
def test_a_clients_choice_counts_where_the_settings_let_it(ungoverned, make_request, choice, honoured):
    governor = ungoverned(sample_rate=0.0 if choice else 1.0, client_choice=honoured)
    assert (governor.sample(make_request(1, sidecar_sample=choice)) is not None) == (choice == honoured)


@pytest.mark.parametrize("word", ["true", 1, 0.0])
def test_a_choice_that_is_no_bool_is_none(ungoverned, make_request, word):
    assert ungoverned(sample_rate=0.0).sample(make_request(1, sidecar_sample=word)) is None


def test_a_sampler_that_raises_is_counted_and_the_request_goes_unobserved(make_recorder, make_request):
    guard = Guard()
    recorder = make_recorder(guard, sample_rate=0.5)
    assert not recorder.open([make_request(1), object()])
    assert guard.failures["sampling"] > 0


def test_a_shield_passes_on_what_goes_well():
    assert Guard().shield("tap", lambda a, b=1: a + b, None)(2, b=3) == 5


def test_a_shield_counts_by_part_and_logs_each_doubling_once(caplog):
    guard = Guard()
    broken = guard.shield("tap", lambda: 1 / 0, "otherwise")
    assert {broken() for _ in range(9)} == {"otherwise"}
    assert guard.failures == {"sampling": 0, "tap": 9, "drain": 0, "judge": 0}
    assert [record.message for record in caplog.records] == [f"tap failed ({n} so far)" for n in (1, 2, 4, 8)]


class Readings:
    """A recorder whose drains bring what they are told to, and wait for nothing."""

    def __init__(self, *outcomes):
        self.guard = Guard()
        self.outcomes = list(outcomes)
        self.empty = threading.Event()

    def drain(self, patience):
        if len(self.outcomes) == 1:
            self.empty.set()
        if not self.outcomes:
            return None
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def run_drainer(recorder, sink):
    drainer = Drainer(recorder, sink, interval=1e-4, clock=lambda: 77.0)
    drainer.start()
    assert recorder.empty.wait(60)
    drainer.stop(60)
    return drainer


def test_a_drain_that_raises_is_counted_and_the_next_one_is_heard():
    heard = []
    recorder = Readings(ValueError("broken"), None, "second", "third")
    drainer = run_drainer(recorder, heard.append)
    assert heard == ["second", "third"]
    assert recorder.guard.failures["drain"] == 1
    assert drainer.last == 77.0


def test_a_sink_that_raises_is_counted_and_hears_the_next_one():
    heard = []

    def sink(reading):
        heard.append(reading)
        raise ValueError("broken")

    recorder = Readings("first", "second")
    run_drainer(recorder, sink)
    assert heard == ["first", "second"]
    assert recorder.guard.failures["judge"] == 2


def test_stopping_drains_once_more(make_recorder, make_request, run_batch, tap):
    recorder, heard = make_recorder(), []
    drainer = Drainer(recorder, heard.append, interval=60, clock=lambda: 1.0)
    drainer.start()
    batch = [make_request(5)]
    recorder.open(batch)
    run_batch(recorder, batch)
    recorder.close()
    drainer.stop(60)
    assert [reading.requests for reading in heard] == [1]
    assert drainer.seconds > 0


def test_stopping_drains_both_banks(make_recorder, make_request, run_batch):
    recorder, heard = make_recorder(), []
    drainer = Drainer(recorder, heard.append, interval=60, clock=lambda: 1.0)
    for number in range(2):
        batch = [make_request(number)]
        recorder.open(batch)
        run_batch(recorder, batch)
        if not number:
            recorder.drain(0.0)  # comes while the batch runs, and is gone when it ends
        recorder.close()
    drainer.start()
    drainer.stop(60)
    assert [reading.requests for reading in heard] == [1, 1]


def test_a_sink_that_hangs_is_left_behind():
    entered, release = threading.Event(), threading.Event()

    def sink(_reading):
        entered.set()
        release.wait(60)

    drainer = Drainer(Readings("first"), sink, interval=1e-4, clock=lambda: 1.0)
    drainer.start()
    assert entered.wait(60)
    drainer.stop(0.01)
    assert drainer._thread.is_alive()
    assert drainer._thread.daemon
    release.set()
    drainer._thread.join(60)
