"""Laws of the batcher, with a model that echoes and a clock that stands still."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import threading
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.errors import ExpiredError, InferenceError, NotReadyError, OverloadedError
from sidecar.server.batching import FAILURES, Batcher
from sidecar.server.lanes import Lanes, Waiting
from sidecar.settings import BatchingSettings
from sidecar.types import InferReply, TensorSpec
from tests.server.conftest import COST, request, running

SPECS = [TensorSpec("x", "FP64", (-1, -1))]
NEVER_MS = 10_000  # the settings' longest delay; a test that had to wait for it would hang visibly


@pytest.fixture
def make_batcher(model, make_servable, ledger):
    def make(*, max_rows=8, max_delay_ms=0, queue_requests=1024, clock=lambda: 0.0, **more):
        servable = make_servable(model.execute, SPECS, max_rows=max_rows)
        limits = BatchingSettings(
            max_rows=max_rows, max_delay_ms=max_delay_ms, queue_requests=queue_requests, **more
        )
        return Batcher(servable, limits, ledger, clock)

    return make


def ids(model):
    return [[one.id for one in batch] for batch in model.batches]


async def queue_up(batcher, *requests):
    """Submit in this order and come back when all wait."""
    tasks = [asyncio.create_task(batcher.submit(one)) for one in requests]
    await asyncio.sleep(0)
    return tasks


async def occupy(batcher, model, request):
    """Let the model be busy with `request` until its gate opens."""
    model.gate.clear()
    model.entered.clear()
    (task,) = await queue_up(batcher, request)
    await model.entered.wait()
    return task


arrivals = st.lists(
    st.tuples(st.integers(1, 8), st.integers(1, 3), st.sampled_from(["keep", "cancel", "expired"])),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrivals=arrivals, max_rows=st.integers(8, 16), pauses=st.sets(st.integers(0, 39)))
async def test_whatever_arrives_every_request_gets_its_own_rows_and_no_batch_breaks_a_law(
    *, arrivals, max_rows, pauses, make_batcher, make_request, model, ledger
):
    model.batches.clear()
    ledger.batches.clear()
    batcher = make_batcher(max_rows=max_rows, clock=lambda: 100.0)
    requests = [
        make_request(number, rows, width=width, deadline=99.0 if fate == "expired" else None)
        for number, (rows, width, fate) in enumerate(arrivals)
    ]
    tasks = []
    for number, one in enumerate(requests):
        tasks += await queue_up(batcher, one)
        if arrivals[number][2] == "cancel":
            tasks[-1].cancel()
        if number in pauses:
            await asyncio.wait(tasks)
    replies = await asyncio.gather(*tasks, return_exceptions=True)
    await batcher.close()

    ran = [int(one.id) for batch in model.batches for one in batch]
    for number, (one, reply) in enumerate(zip(requests, replies, strict=True)):
        fate = arrivals[number][2]
        if fate == "expired":
            assert isinstance(reply, ExpiredError)
            assert number not in ran
        elif fate == "keep":
            np.testing.assert_array_equal(reply.outputs["x"].array, one.inputs["x"].array)
    assert len(ran) == len(set(ran))
    for batch, rows in zip(model.batches, ledger.batches, strict=True):
        assert rows == sum(one.rows for one in batch) <= max_rows
        assert len({one.inputs["x"].array.shape[1:] for one in batch}) == 1
    for width in (1, 2, 3):
        same = [number for number in ran if arrivals[number][1] == width]
        assert same == sorted(same)
    assert ledger.waiting[-1] == 0


async def test_requests_that_arrive_during_a_batch_share_the_next_at_once(make_batcher, make_request, model):
    batcher = make_batcher(max_rows=2, max_delay_ms=NEVER_MS)
    first = await occupy(batcher, model, make_request(0, rows=2))
    others = await queue_up(batcher, make_request(1))
    model.gate.set()
    await asyncio.gather(first, *others)
    assert ids(model) == [["0"], ["1"]]


async def test_a_full_batch_does_not_wait_for_the_delay(make_batcher, make_request, model):
    batcher = make_batcher(max_rows=3, max_delay_ms=NEVER_MS)
    await asyncio.gather(batcher.submit(make_request(0)), batcher.submit(make_request(1, rows=2)))
    assert ids(model) == [["0", "1"]]


async def test_a_lone_request_runs_after_the_delay(make_batcher, make_request, model):
    reply = await make_batcher(max_delay_ms=1).submit(make_request(7))
    assert reply.outputs["x"].array[0, 0] == 7e6
    assert ids(model) == [["7"]]


async def test_the_delay_collects_requests_that_come_a_little_later(make_batcher, make_request, model):
    batcher = make_batcher(max_rows=2, max_delay_ms=NEVER_MS)
    (early,) = await queue_up(batcher, make_request(0))
    await asyncio.sleep(0)
    assert model.batches == []
    await asyncio.gather(early, batcher.submit(make_request(1)))
    assert ids(model) == [["0", "1"]]


async def test_a_model_without_a_batch_dimension_gets_each_request_alone(make_batcher, make_request, model):
    batcher = make_batcher(max_rows=0, max_delay_ms=NEVER_MS)
    await asyncio.gather(*(batcher.submit(make_request(number)) for number in range(3)))
    assert ids(model) == [["0"], ["1"], ["2"]]


async def test_the_kind_that_waited_longest_runs_first(make_batcher, make_request, model):
    batcher = make_batcher(max_rows=2, clock=itertools.count().__next__)
    first = await occupy(batcher, model, make_request(0, rows=2))
    widths = {1: 3, 2: 3, 3: 2, 4: 3, 5: 2}
    others = await queue_up(batcher, *(make_request(number, width=width) for number, width in widths.items()))
    model.gate.set()
    await asyncio.gather(first, *others)
    assert ids(model) == [["0"], ["1", "2"], ["3", "5"], ["4"]]


async def test_a_full_batch_does_not_spare_the_next_request_its_delay(make_batcher, make_request, model):
    batcher = make_batcher(max_rows=2, max_delay_ms=NEVER_MS)
    await asyncio.gather(batcher.submit(make_request(0)), batcher.submit(make_request(1)))
    (lone,) = await queue_up(batcher, make_request(2))
    await asyncio.sleep(0)
    assert ids(model) == [["0", "1"]]
    await asyncio.gather(lone, batcher.submit(make_request(3)))
    assert ids(model) == [["0", "1"], ["2", "3"]]


async def test_rows_of_a_cancelled_request_do_not_fill_a_batch(make_batcher, make_request, model):
    batcher = make_batcher(max_rows=3, max_delay_ms=NEVER_MS)
    stays, leaves = await queue_up(batcher, make_request(0), make_request(1))
    leaves.cancel()
    await asyncio.wait([leaves])
    (more,) = await queue_up(batcher, make_request(2))
    await asyncio.sleep(0)
    assert model.batches == []
    await asyncio.gather(stays, more, batcher.submit(make_request(3)))
    assert ids(model) == [["0", "2", "3"]]


async def test_what_goes_wrong_outside_of_the_model_costs_its_batch_and_readiness_for_a_while(
    *, make_batcher, make_request, model, ledger, monkeypatch, caplog
):
    monkeypatch.setattr("sidecar.server.batching.RESTART_SECONDS", 60)
    batcher = make_batcher()
    with monkeypatch.context() as broken:
        broken.setattr(ledger, "batch_finished", None)
        with pytest.raises(InferenceError):
            await batcher.submit(make_request(0))
    assert not batcher.servable.ready
    assert "the thread of echo failed and starts again" in caplog.text
    await batcher.close()


async def test_a_model_whose_thread_failed_is_ready_again_and_goes_on(
    *, make_batcher, make_request, model, ledger, monkeypatch
):
    monkeypatch.setattr("sidecar.server.batching.RESTART_SECONDS", 0)
    batcher = make_batcher()
    with monkeypatch.context() as broken:
        broken.setattr(ledger, "batch_finished", None)
        with pytest.raises(InferenceError):
            await batcher.submit(make_request(0))
    await batcher.submit(make_request(1))
    assert batcher.servable.ready
    assert ids(model) == [["0"], ["1"]]
    await batcher.close()


@pytest.mark.parametrize("part", ["queue_length", "choose"])
async def test_an_error_of_the_queue_itself_costs_at_most_a_batch_and_the_model_goes_on(
    *, part, make_batcher, make_request, model, ledger, monkeypatch
):
    monkeypatch.setattr("sidecar.server.batching.RESTART_SECONDS", 0)
    batcher = make_batcher()
    owner = ledger if part == "queue_length" else Lanes
    whole, failures = getattr(owner, part), [MemoryError("once")]

    def broken(*arguments):
        if failures and threading.current_thread() is not threading.main_thread():
            assert batcher.servable.ready
            raise failures.pop()
        return whole(*arguments)

    monkeypatch.setattr(owner, part, broken)
    with suppress(InferenceError):
        await batcher.submit(make_request(0))
    await batcher.submit(make_request(1))
    assert not failures
    assert batcher.servable.ready
    await batcher.close()


async def test_a_thread_that_cannot_be_started_costs_one_request(make_batcher, make_request, model):
    batcher = make_batcher()
    start = batcher.servable.start
    batcher.servable.start = unstartable
    with pytest.raises(RuntimeError, match="no more threads"):
        await batcher.submit(make_request(0))
    batcher.servable.start = start
    await batcher.submit(make_request(1))
    assert ids(model) == [["1"]]


def unstartable(_):
    raise RuntimeError("no more threads")


async def test_a_batch_of_which_a_request_went_well_is_no_failure(make_batcher, make_request, model):
    batcher = make_batcher(max_rows=2, max_delay_ms=NEVER_MS)
    model.execute = lambda requests: [InferenceError("no"), InferReply(dict(requests[1].inputs), COST)]
    batcher.servable.start = running(model.execute)
    for _ in range(FAILURES):
        outcomes = [batcher.submit(make_request(0)), batcher.submit(make_request(1))]
        await asyncio.gather(*outcomes, return_exceptions=True)
    assert batcher.trusted()


async def test_a_request_that_does_not_fit_is_not_overtaken_by_a_smaller_one(
    make_batcher, make_request, model
):
    batcher = make_batcher(max_rows=4)
    first = await occupy(batcher, model, make_request(0))
    others = await queue_up(batcher, make_request(1, rows=3), make_request(2, rows=2), make_request(3))
    model.gate.set()
    await asyncio.gather(first, *others)
    assert ids(model) == [["0"], ["1"], ["2", "3"]]


async def test_a_cancelled_request_leaves_the_queue_and_never_runs(make_batcher, make_request, model, ledger):
    batcher = make_batcher()
    first = await occupy(batcher, model, make_request(0))
    leaves, stays = await queue_up(batcher, make_request(1), make_request(2))
    leaves.cancel()
    await asyncio.wait([leaves])
    assert ledger.waiting[-1] == 1
    model.gate.set()
    await asyncio.gather(first, stays)
    assert ids(model) == [["0"], ["2"]]


async def test_a_request_cancelled_just_before_its_batch_starts_never_runs(make_batcher, make_request, model):
    batcher = make_batcher(max_delay_ms=NEVER_MS)
    (leaves,) = await queue_up(batcher, make_request(0))
    leaves.cancel()
    await asyncio.wait([leaves])
    await batcher.close()
    assert model.batches == []


async def test_a_request_cancelled_while_it_runs_harms_nobody_beside_it(make_batcher, make_request, model):
    batcher = make_batcher(max_rows=2, max_delay_ms=NEVER_MS)
    model.gate.clear()
    leaves, stays = await queue_up(batcher, make_request(0), make_request(1))
    await model.entered.wait()
    leaves.cancel()
    await asyncio.wait([leaves])
    model.gate.set()
    assert (await stays).outputs["x"].array[0, 0] == 1e6


async def test_a_full_queue_refuses_and_takes_again_when_it_has_room(make_batcher, make_request, model):
    batcher = make_batcher(queue_requests=1)
    first = await occupy(batcher, model, make_request(0))
    waiting = await queue_up(batcher, make_request(1))
    with pytest.raises(OverloadedError, match="1 requests wait for model 'echo', the most allowed"):
        await batcher.submit(make_request(2))
    model.gate.set()
    await asyncio.gather(first, *waiting)
    await batcher.submit(make_request(3))
    assert ids(model) == [["0"], ["1"], ["3"]]


@pytest.mark.parametrize("levels", [0, 3])
async def test_a_full_queue_makes_room_by_those_whose_deadlines_have_passed(
    *, levels, make_batcher, make_request, model, ledger
):
    now = 100.0
    batcher = make_batcher(queue_requests=4, priority_levels=levels, clock=lambda: now)
    first = await occupy(batcher, model, make_request(0))
    waiting = await queue_up(batcher, *(make_request(number, deadline=100.02) for number in (1, 2, 3)))
    waiting += await queue_up(batcher, make_request(4))
    now = 100.1
    late = await queue_up(batcher, make_request(5, deadline=110.0))
    assert ledger.waiting[-1] == 2
    outcomes = await asyncio.gather(*waiting[:3], return_exceptions=True)
    assert all(isinstance(outcome, ExpiredError) for outcome in outcomes)
    model.gate.set()
    await asyncio.gather(first, waiting[3], *late)
    assert ids(model) == [["0"], ["4", "5"]]


async def test_a_full_queue_makes_room_by_those_who_would_come_too_late(make_batcher, make_request, model):
    now = 100.0
    batcher = make_batcher(queue_requests=3, priority_levels=2, clock=lambda: now)
    first = await occupy(batcher, model, make_request(0))
    now = 104.0
    model.gate.set()
    await first
    running = await occupy(batcher, model, make_request(1))
    hopeful, behind, hopeless = await queue_up(
        batcher, make_request(2, deadline=104.5), make_request(3), make_request(4, deadline=111.0)
    )
    late = await queue_up(batcher, make_request(5))
    with pytest.raises(OverloadedError, match="longer than the request's deadline allows"):
        await hopeless
    with pytest.raises(OverloadedError, match="3 requests wait for model 'echo', the most allowed"):
        await batcher.submit(make_request(6))
    model.gate.set()
    await asyncio.gather(running, hopeful, behind, *late)
    assert ids(model) == [["0"], ["1"], ["2", "3", "5"]]


@given(
    waiting=st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 4), st.none() | st.integers(1, 20), st.booleans()),
        max_size=30,
    ),
    pace=st.sampled_from([0.0, 1.0]),
)
def test_what_is_shed_could_not_run_in_time_and_what_is_left_may(waiting, pace):
    lanes, everyone = Lanes(), []
    for number, (width, rows, deadline, urgent) in enumerate(waiting):
        one = Waiting(request(number, rows, width=width, deadline=deadline), None, number)
        one.request.priority = 1 if urgent else 2
        lanes.add(one)
        everyone.append(one)
    order = {one.kind: list(lanes._lanes[one.kind]) for one in everyone}
    gone = lanes.shed(5.0, pace)
    for lane in order.values():
        free = 5.0
        for one in lane:
            deadline = one.request.deadline
            late = deadline is not None and (deadline <= 5 or deadline < free)
            assert late == (one in gone)
            free += 0 if late else one.request.rows * pace
    left = [one for one in everyone if one not in gone]
    assert (lanes.requests, lanes.rows) == (len(left), sum(one.request.rows for one in left))
    assert lanes.bytes == sum(one.bytes for one in left)
    assert lanes.soonest == min(
        (one.request.deadline for one in left if one.request.deadline), default=math.inf
    )
    assert all(lanes.remove(one) for one in left)
    assert not lanes


async def test_more_bytes_than_may_wait_are_refused_but_for_a_request_that_waits_alone(
    make_batcher, make_request, model
):
    batcher = make_batcher(queue_bytes=3 * 16)
    first = await occupy(batcher, model, make_request(0))
    waiting = await queue_up(batcher, make_request(1, rows=4))
    with pytest.raises(OverloadedError, match="64 bytes wait for model 'echo', 48 are allowed"):
        await batcher.submit(make_request(2))
    model.gate.set()
    await asyncio.gather(first, *waiting)
    await batcher.submit(make_request(3))
    assert ids(model) == [["0"], ["1"], ["3"]]


async def test_a_request_that_what_waits_leaves_no_time_for_is_refused_with_advice(
    make_batcher, make_request, model
):
    now = [100.0]
    batcher = make_batcher(clock=lambda: now[0])
    first = await occupy(batcher, model, make_request(0))
    now[0] = 104.0
    model.gate.set()
    await first
    running = await occupy(batcher, model, make_request(1))
    waiting = await queue_up(batcher, make_request(2, rows=2))
    with pytest.raises(OverloadedError, match="longer than the request's deadline allows") as refused:
        await batcher.submit(make_request(3, deadline=111.0))
    assert refused.value.retry_after == 8.0
    waiting += await queue_up(batcher, make_request(4, deadline=113.0))
    model.gate.set()
    await asyncio.gather(running, *waiting)
    assert ids(model) == [["0"], ["1"], ["2", "4"]]


async def test_what_waits_is_ahead_for_a_share_of_the_time_where_several_instances_run_it(
    make_batcher, make_request, model
):
    now = [100.0]
    batcher = make_batcher(clock=lambda: now[0])
    batcher.servable.instances = 2
    first = await occupy(batcher, model, make_request(0))
    now[0] = 104.0
    model.gate.set()
    await first
    running = await occupy(batcher, model, make_request(1))
    waiting = await queue_up(batcher, make_request(2, rows=2))
    with pytest.raises(OverloadedError) as refused:
        await batcher.submit(make_request(3, deadline=107.0))
    assert refused.value.retry_after == 4.0
    waiting += await queue_up(batcher, make_request(4, deadline=109.0))
    model.gate.set()
    await asyncio.gather(running, *waiting)
    assert ids(model) == [["0"], ["1"], ["2", "4"]]


async def test_a_batch_is_cut_to_the_largest_preferred_size_that_is_full(make_batcher, make_request, model):
    batcher = make_batcher(max_rows=8, preferred_rows=(2, 4))
    first = await occupy(batcher, model, make_request(0))
    others = await queue_up(batcher, *(make_request(number) for number in range(1, 8)))
    model.gate.set()
    await asyncio.gather(first, *others)
    assert ids(model) == [["0"], ["1", "2", "3", "4"], ["5", "6"], ["7"]]


async def test_requests_of_one_bucket_share_a_batch_whatever_their_shapes(make_batcher, make_request, model):
    batcher = make_batcher(max_rows=8)
    first = await occupy(batcher, model, make_request(0))
    requests = [make_request(number, width=number) for number in range(1, 5)]
    for one in requests:
        one.length, one.bucket = one.inputs["x"].array.shape[1], 4 if one.id == "4" else 3
    others = await queue_up(batcher, *requests)
    model.gate.set()
    await asyncio.gather(first, *others)
    assert ids(model) == [["0"], ["1", "2", "3"], ["4"]]


async def test_the_wait_for_company_ends_at_the_smallest_preferred_size(make_batcher, make_request, model):
    batcher = make_batcher(max_rows=8, max_delay_ms=NEVER_MS, preferred_rows=(3,))
    await asyncio.gather(*(batcher.submit(make_request(number)) for number in range(3)))
    assert ids(model) == [["0", "1", "2"]]


async def test_a_failing_batch_fails_its_own_requests_only(make_batcher, make_request, model, caplog):
    batcher = make_batcher()
    model.failure = ValueError("inside")
    with caplog.at_level(logging.ERROR), pytest.raises(InferenceError, match=r"^model 'echo' failed$"):
        await batcher.submit(make_request(0))
    model.failure = None
    await batcher.submit(make_request(1))
    assert "ValueError: inside" in caplog.text


async def test_a_model_that_answers_too_few_fails_the_batch(make_batcher, make_request, model, caplog):
    model.execute = lambda requests: []
    with pytest.raises(InferenceError):
        await make_batcher().submit(make_request(0))
    assert "0 replies to 1 requests" in caplog.text


async def test_closing_answers_those_who_wait_and_refuses_the_rest(make_batcher, make_request, model):
    batcher = make_batcher(max_delay_ms=NEVER_MS)
    waiting = await queue_up(batcher, make_request(0), make_request(1))
    await batcher.close()
    assert all(task.done() for task in waiting)
    with pytest.raises(NotReadyError):
        await batcher.submit(make_request(2))
    assert ids(model) == [["0", "1"]]


async def test_the_observer_learns_how_long_each_request_waited(make_batcher, make_request, model, ledger):
    now = [10.0]
    batcher = make_batcher(clock=lambda: now[0])
    first = await occupy(batcher, model, make_request(0))
    second = await queue_up(batcher, make_request(1))
    now[0] = 12.5
    third = await queue_up(batcher, make_request(2))
    now[0] = 13.0
    model.gate.set()
    await asyncio.gather(first, *second, *third)
    assert ledger.queued == [0.0, 3.0, 0.5]


async def test_no_task_is_left_when_the_queue_is_empty(make_batcher, make_request):
    batcher = make_batcher(max_delay_ms=1)
    await batcher.submit(make_request(0))
    await batcher.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
