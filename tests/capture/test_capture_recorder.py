"""Slots, banks, and the two threads that share them."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.capture import Outputs, Recorder
from sidecar.capture.recorder import LONGEST_ID
from sidecar.capture.sampling import Sample
from sidecar.types import Tensor, TensorSpec


def values(reading, tap):
    return reading.rows[tap].absmax.tolist()


def observe_batch(recorder, run_batch, requests):
    assert recorder.open(requests)
    run_batch(recorder, requests)
    recorder.close()


def test_each_sampled_request_of_a_mixed_batch_gets_its_own_row(make_recorder, make_request, run_batch, tap):
    recorder = make_recorder()
    batch = [make_request(1, rows=2), make_request(2, sidecar_sample=False), make_request(3, rows=3)]
    observe_batch(recorder, run_batch, batch)
    reading = recorder.drain(0.0)
    assert values(reading, tap) == [1.0, 3.0]
    assert (reading.requests, recorder.sampled, reading.at) == (2, 2, 5.0)
    assert reading.sketches[tap].counts.positions == 5


def test_a_shorter_batch_inherits_no_slot_from_a_longer_one(make_recorder, make_request, run_batch, tap):
    recorder = make_recorder(max_rows=8)
    observe_batch(recorder, run_batch, [make_request(1, rows=8)])
    observe_batch(recorder, run_batch, [make_request(2, rows=1)])
    assert recorder.row_slot.tolist() == [1] + [-1] * 7


def test_a_batch_without_a_sampled_request_runs_plain(make_recorder, make_request):
    recorder = make_recorder()
    assert not recorder.open([make_request(1, sidecar_sample=False)])
    assert recorder.open([make_request(1)])


def test_full_slots_drop_and_count_and_a_drain_makes_room(make_recorder, make_request, run_batch, tap):
    recorder = make_recorder(slots=16)
    for number in range(3):
        observe_batch(recorder, run_batch, [make_request(8 * number + i) for i in range(5)])
    last = [make_request(100 + i) for i in range(5)]
    observe_batch(recorder, run_batch, last)
    assert recorder.dropped == {"slots": 4, "stuck": 0, "busy": 0, "padded": 0}
    assert not recorder.open(last)
    assert recorder.dropped["slots"] == 9
    assert recorder.drain(0.0).requests == 16
    assert recorder.open(last)


def test_while_an_observed_batch_is_stuck_others_are_dropped_and_counted(
    make_recorder, make_request, run_batch, tap
):
    recorder = make_recorder()
    stuck = [make_request(1)]
    assert recorder.open(stuck)
    assert not recorder.open([make_request(2), make_request(3, sidecar_sample=False)])
    assert recorder.dropped == {"slots": 0, "stuck": 1, "busy": 0, "padded": 0}
    run_batch(recorder, stuck)
    recorder.close()
    observe_batch(recorder, run_batch, [make_request(4)])
    assert values(recorder.drain(0.0), tap) == [1.0, 4.0]


def test_a_drain_without_news_brings_nothing(make_recorder):
    assert make_recorder().drain(0.0) is None


def test_a_drain_gives_up_on_a_batch_that_outlasts_its_patience_and_the_next_brings_it(
    make_recorder, make_request, run_batch, tap
):
    recorder = make_recorder()
    batch = [make_request(7)]
    assert recorder.open(batch)
    assert recorder.drain(0.0) is None
    run_batch(recorder, batch)
    recorder.close()
    observe_batch(recorder, run_batch, [make_request(8)])
    assert values(recorder.drain(0.0), tap) == [7.0]
    assert values(recorder.drain(0.0), tap) == [8.0]
    assert recorder.drain(0.0) is None


def test_a_drain_during_a_batch_gets_it_when_the_batch_closes(make_recorder, make_request, run_batch, tap):
    recorder = make_recorder()
    batch = [make_request(7)]
    assert recorder.open(batch)
    brought = []
    drain = threading.Thread(target=lambda: brought.append(recorder.drain(60.0)))
    drain.start()
    run_batch(recorder, batch)
    while not recorder._retire_wanted:
        pass
    recorder.close()
    drain.join(60)
    assert values(brought[0], tap) == [7.0]


def test_the_self_checks_batch_is_not_counted_as_sampled(make_recorder, make_request, run_batch):
    recorder = make_recorder(sample_rate=0.0)
    assert recorder.open([make_request(1)], always=True)
    assert recorder.sampled == 0


def test_an_error_while_slots_are_given_is_counted_and_leaves_nothing_locked(make_recorder, make_request):
    recorder = make_recorder()
    batch = [make_request(1)]
    recorder.banks.send, send = None, recorder.banks.send
    assert not recorder.open(batch)
    assert recorder.guard.failures["sampling"] == 1
    recorder.banks.send = send
    assert recorder.open(batch)
    assert recorder.dropped["stuck"] == 0


def test_a_drain_that_raises_loses_no_slot_and_the_next_one_reads_it(
    make_recorder, make_request, run_batch, tap, monkeypatch
):
    recorder = make_recorder()
    observe_batch(recorder, run_batch, [make_request(3), make_request(4)])
    state = recorder.states[tap]
    monkeypatch.setattr(type(state), "decode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        recorder.drain(0.0)
    monkeypatch.undo()
    observe_batch(recorder, run_batch, [make_request(5)])
    assert values(recorder.drain(0.0), tap) == [3.0, 4.0]
    assert values(recorder.drain(0.0), tap) == [5.0]


@pytest.mark.parametrize(
    ("values", "pivot"),
    [([500.0, 501.0], 500.5), ([-1.0, 1.5], 0.0), ([3e8, 3e8], 0.0), ([float("nan")], 0.0)],
)
def test_the_next_sums_are_about_the_mean_where_it_outweighs_the_spread(
    make_recorder, make_request, run_batch, tap, values, pivot
):
    recorder = make_recorder()
    observe_batch(recorder, run_batch, [make_request(value) for value in values])
    recorder.drain(0.0)
    assert recorder.states[tap].floats[0, 0] == pivot


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=4), max_size=12),
    st.data(),
)
def test_whatever_the_order_of_batches_and_drains_each_sampled_request_is_brought_once_in_order(
    make_recorder, make_request, run_batch, tap, batches, data
):
    recorder: Recorder = make_recorder(slots=64, max_rows=12)
    number, expected, brought = 0, [], []
    for sizes in batches:
        batch = []
        for rows, sampled in sizes:
            number += 1
            batch.append(make_request(number, rows=rows, sidecar_sample=sampled))
            expected += [float(number)] if sampled else []
        during = data.draw(st.booleans())
        if recorder.open(batch):
            if during and (reading := recorder.drain(0.0)):
                brought += values(reading, tap)
            run_batch(recorder, batch)
            recorder.close()
        if data.draw(st.booleans()) and (reading := recorder.drain(0.0)):
            brought += values(reading, tap)
    while reading := recorder.drain(0.0):
        brought += values(reading, tap)
    assert brought == expected


def test_a_model_thread_and_a_drain_thread_lose_and_double_nothing(
    make_recorder, make_request, run_batch, tap
):
    recorder = make_recorder(slots=512)
    batches, done, brought = 1500, threading.Event(), []

    def drain() -> None:
        last = False
        while not last:
            last = done.is_set()
            if reading := recorder.drain(0.001):
                brought.append(reading)

    thread = threading.Thread(target=drain)
    thread.start()
    for number in range(batches):
        batch = [make_request(4 * number + i, rows=1 + i % 2) for i in range(4)]
        before = len(brought)
        if recorder.open(batch):
            run_batch(recorder, batch)
            recorder.close()
            # However the threads are scheduled, there are at least this many drains between batches.
            while number % 100 == 0 and len(brought) == before:
                pass
    done.set()
    thread.join(60)
    while reading := recorder.drain(0.0):
        brought.append(reading)
    requests = [value for reading in brought for value in values(reading, tap)]
    assert len(set(requests)) == len(requests) == recorder.sampled
    assert recorder.sampled + recorder.dropped["slots"] + recorder.dropped["stuck"] == 4 * batches
    positions = sum(1 + int(value) % 2 for value in requests)
    assert sum(reading.sketches[tap].counts.positions for reading in brought) == positions
    assert sum(reading.sketches[tap].counts.requests for reading in brought) == recorder.sampled
    assert not any(recorder.guard.failures.values())


def test_memory_is_the_size_of_both_banks(make_recorder):
    recorder = make_recorder(slots=16)
    bank = 4 * 4096 * 4 + (2 * 3 + 16 * 9 + 1) * 8 + (1 + 2 * 3 + 16 * 6) * 8 + 16 * 32 * 4 + 3 * 8
    assert recorder.memory() == 2 * bank


def test_a_reading_says_what_each_request_stands_for(make_recorder, make_request, run_batch, tap):
    samples = {"1": Sample(2.0, True), "2": None, "3": Sample(7.5, False)}
    recorder = make_recorder()
    recorder.choose = lambda request: samples[request.id]
    observe_batch(recorder, run_batch, [make_request(1), make_request(2), make_request(3)])
    rows = recorder.drain(0.0).rows[tap]
    assert rows.weights.tolist() == [2.0, 7.5]
    assert rows.common.tolist() == [True, False]
    observe_batch(recorder, run_batch, [make_request(3)])
    observe_batch(recorder, run_batch, [make_request(1)])
    assert recorder.drain(0.0).rows[tap].weights.tolist() == [7.5, 2.0]
    observe_batch(recorder, run_batch, [make_request(3)])
    assert rows.weights.tolist() == [2.0, 7.5]


def test_what_is_always_observed_stands_for_itself(make_recorder, make_request, run_batch, tap):
    recorder = make_recorder(sample_rate=0.0)
    batch = [make_request(1)]
    assert recorder.open(batch, always=True)
    run_batch(recorder, batch)
    recorder.close()
    assert recorder.drain(0.0).rows[tap].weights.tolist() == [1.0]


def test_a_reading_brings_ids_parameters_and_answers_of_the_sampled_requests(
    make_recorder, make_request, run_batch
):
    recorder = make_recorder(
        outputs=Outputs(TensorSpec("logits", "FP32", (-1, 3)), 16), parameters=("route",)
    )
    batch = [
        make_request(1, rows=2),
        make_request(2, sidecar_sample=False),
        make_request(3, route="eu", other=1),
    ]
    assert recorder.open(batch)
    run_batch(recorder, batch)
    recorder.answered({"logits": Tensor("FP32", np.eye(4, 3, dtype=np.float32))})
    recorder.close()
    reading = recorder.drain(0.0)
    assert reading.ids == ("1", "3")
    assert [dict(each) for each in reading.parameters] == [{}, {"route": "eu"}]
    assert reading.outputs.logits.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    assert recorder.nanoseconds > 0


def test_an_answer_of_another_shape_is_counted_and_harms_nobody(make_recorder, make_request, run_batch):
    recorder = make_recorder(outputs=Outputs(TensorSpec("logits", "FP32", (-1, 3)), 16))
    assert recorder.open([make_request(1)])
    recorder.answered({"logits": Tensor("FP32", np.zeros((9, 3), np.float32))})
    recorder.close()
    assert recorder.guard.failures["tap"] == 1
    assert recorder.drain(0.0).outputs.predicted.tolist() == [-1]


def test_of_an_id_and_a_parameter_that_a_client_made_long_the_beginning_is_kept(
    make_recorder, make_request, run_batch
):
    recorder = make_recorder(parameters=("route",))
    long = "7" * 1_000
    observe_batch(recorder, run_batch, [make_request(long, route=long)])
    reading = recorder.drain(0.0)
    assert [len(reading.ids[0]), len(reading.parameters[0]["route"])] == [LONGEST_ID, LONGEST_ID]
