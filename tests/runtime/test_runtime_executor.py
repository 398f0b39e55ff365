"""Each request gets its own rows, and telemetry that goes wrong gets nobody into trouble."""

from __future__ import annotations

import asyncio
import math
import threading
from concurrent.futures import Future
from queue import SimpleQueue

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Caught, InferenceError, OutOfMemoryError
from sidecar.runtime import new
from sidecar.runtime.executor import Executor
from sidecar.runtime.staging import Staging
from sidecar.types import InferRequest, Tensor

PATIENCE = 0.1


class FakeRuntime:
    """Doubles its input. Both variants keep the threads they ran on.

    hang: while not set, the instrumented variant does not return. failure: what it raises.
    """

    def __init__(self):
        self.prepared = []
        self.plain_threads, self.observed_threads = [], []
        self.hang = threading.Event()
        self.hang.set()
        self.entered = threading.Event()
        self.failure = self.plain_failure = None
        self.answer = lambda x: 2 * x
        self.empty = new

    def prepare_thread(self):
        self.prepared.append(threading.get_ident())

    def plain(self, batch):
        self.plain_threads.append(threading.get_ident())
        if self.plain_failure:
            raise self.plain_failure
        return {"y": Tensor("INT64", self.answer(batch["x"].array))}

    def instrumented(self, batch):
        self.observed_threads.append(threading.get_ident())
        self.entered.set()
        self.hang.wait(60)
        if self.failure:
            raise self.failure
        return {"y": Tensor("INT64", self.answer(batch["x"].array))}


class FakeRecorder:
    """Opens unless told not to or while a batch is open."""

    nanoseconds = 0

    def __init__(self):
        self.wanted = True
        self.opened = self.closed = 0
        self.close_seen = threading.Event()

    def open(self, requests):
        if not self.wanted or self.opened > self.closed:
            return False
        self.opened += 1
        return True

    def answered(self, outputs):
        self.outputs = outputs

    def close(self):
        self.closed += 1
        self.close_seen.set()


class FakeBatch:
    """outcome: replies, or an error."""

    def __init__(self, requests):
        self.requests = requests
        self.outcome = Future()

    def answer(self, replies):
        self.outcome.set_result(replies)

    def fail(self, error):
        self.outcome.set_exception(error)


class FakeBatches:
    """Batches that a test puts in; None is the last."""

    def __init__(self):
        self.queue = SimpleQueue()

    def serve(self, run, first=None):
        while (batch := first or self.queue.get()) is not None:
            first = None
            with Caught() as caught:
                more = run(batch)
            if caught.error is not None:
                batch.fail(caught.error)
            elif not more:
                return


class Started:
    """An executor that runs; a test gives it requests and waits for their replies."""

    def __init__(self, executor):
        self._executor, self._batches = executor, FakeBatches()
        executor.start(self._batches)

    def begin(self, requests):
        batch = FakeBatch(requests)
        self._batches.queue.put(batch)
        return batch.outcome

    async def execute(self, requests):
        return await asyncio.wrap_future(self.begin(requests))

    @property
    def seconds(self):
        return self._executor.seconds

    def close(self):
        self._batches.queue.put(None)
        self._executor.close()


@pytest.fixture
def parts(request):
    """A runtime, a recorder and an executor, which is patient unless the test asks for a hasty one."""
    runtime, recorder = FakeRuntime(), FakeRecorder()
    patience = getattr(request, "param", 60.0)
    executor = Started(Executor(runtime, recorder, patience, batched=True, usual=0.0))
    yield runtime, recorder, executor
    runtime.hang.set()
    executor.close()


hasty = pytest.mark.parametrize("parts", [PATIENCE], indirect=True, ids=["hasty"])


def request(number, rows=1):
    return InferRequest(str(number), {"x": Tensor("INT64", np.full((rows, 2), number))}, rows)


def numbers(replies):
    return [reply.outputs["y"].array[:, 0].tolist() for reply in replies]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.booleans())
def test_replies_are_each_requests_own_rows(sizes, observed):
    recorder = FakeRecorder()
    recorder.wanted = observed
    executor = Started(Executor(FakeRuntime(), recorder, 60.0, batched=True, usual=0.0))
    replies = executor.begin([request(i, rows) for i, rows in enumerate(sizes)]).result(60)
    executor.close()
    assert numbers(replies) == [[2 * i] * rows for i, rows in enumerate(sizes)]
    assert recorder.opened == recorder.closed == observed


async def test_the_model_runs_on_one_prepared_thread_that_is_not_the_event_loops(parts):
    runtime, _, executor = parts
    for number in range(5):
        await executor.execute([request(number)])
    assert runtime.prepared == list(set(runtime.observed_threads))
    assert threading.get_ident() not in runtime.prepared


@pytest.mark.parametrize("recorded", [True, False])
async def test_what_an_identity_model_answered_is_not_touched_by_later_batches(recorded):
    runtime = FakeRuntime()
    runtime.answer = lambda x: x
    executor = Started(
        Executor(runtime, FakeRecorder() if recorded else None, PATIENCE, batched=True, usual=0.0)
    )
    first = await executor.execute([request(1), request(2)])
    await executor.execute([request(3), request(4)])
    assert numbers(first) == [[1], [2]]
    executor.close()


async def test_batches_are_put_together_in_the_memory_that_the_runtime_names():
    runtime = FakeRuntime()
    allocated = []

    def allocate(size):
        allocated.append(torch.zeros(size, dtype=torch.uint8))
        return allocated[-1]

    runtime.empty = Staging(allocate).empty
    executor = Started(Executor(runtime, None, PATIENCE, batched=True, usual=0.0))
    for number in (3, 1, 2):
        requests = [request(number + each) for each in range(number)]
        expected = [[2 * (number + each)] for each in range(number)]
        assert numbers(await executor.execute(requests)) == expected
    assert len(allocated) == 1
    assert numbers(await executor.execute([request(1)] * 5)) == [[2]] * 5
    assert [len(each) for each in allocated] == [3 * 16, 5 * 16]
    executor.close()


async def test_without_a_recorder_the_plain_variant_runs():
    runtime = FakeRuntime()
    executor = Started(Executor(runtime, None, PATIENCE, batched=True, usual=0.0))
    assert numbers(await executor.execute([request(1)])) == [[2]]
    assert runtime.observed_threads == []
    executor.close()


async def test_without_a_batch_dimension_outputs_are_passed_on_whole():
    runtime = FakeRuntime()
    runtime.answer = lambda x: np.array(7)
    executor = Started(Executor(runtime, None, PATIENCE, batched=False, usual=0.0))
    (reply,) = await executor.execute([request(1)])
    assert reply.outputs["y"].array == 7
    executor.close()


@pytest.mark.parametrize("answer", [lambda x: x[:1], lambda x: np.array(1), lambda x: x.T])
async def test_an_output_without_a_row_for_each_row_of_the_batch_is_an_inference_error(answer):
    runtime = FakeRuntime()
    runtime.answer = answer
    executor = Started(Executor(runtime, None, PATIENCE, batched=True, usual=0.0))
    with pytest.raises(InferenceError, match=r"output y has shape .* for a batch of 3 rows"):
        await executor.execute([request(1, rows=3)])
    executor.close()


async def test_an_instrumented_variant_that_raises_is_answered_by_the_plain_one(parts):
    runtime, recorder, executor = parts
    runtime.failure = ValueError("telemetry")
    for number in range(100):
        assert numbers(await executor.execute([request(number)])) == [[2 * number]]
    assert recorder.opened == recorder.closed == 100


async def test_a_model_that_raises_is_told_so_once(parts):
    runtime, recorder, executor = parts
    runtime.failure = runtime.plain_failure = ValueError("model")
    with pytest.raises(ValueError, match="model"):
        await executor.execute([request(1)])
    assert recorder.closed == 1


async def test_a_plain_run_that_raises_is_not_repeated(parts):
    runtime, recorder, executor = parts
    recorder.wanted = False
    runtime.plain_failure = ValueError("model")
    with pytest.raises(ValueError, match="model"):
        await executor.execute([request(1)])
    assert len(runtime.plain_threads) == 1


NO_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("no more"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    RuntimeError("Failed to allocate memory for requested buffer of size 8"),
]


@pytest.mark.parametrize("failure", NO_MEMORY)
async def test_without_memory_telemetry_is_shed_first_and_then_each_request_runs_alone(parts, failure):
    runtime, recorder, executor = parts

    def answer(x):
        if len(x) > 2:
            raise failure
        return 2 * x

    runtime.answer = answer
    small, large, other = await executor.execute([request(1), request(2, rows=3), request(3)])
    assert numbers([small, other]) == [[2], [6]]
    assert isinstance(large, OutOfMemoryError)
    assert len(runtime.observed_threads) == 1
    runtime.failure = failure
    assert numbers(await executor.execute([request(4), request(5)])) == [[8], [10]]
    assert recorder.opened == recorder.closed == 2


async def test_a_request_that_fails_alone_is_an_inference_error(parts):
    runtime, recorder, executor = parts
    recorder.wanted = False
    failures = iter([MemoryError(), ValueError("secret"), None])

    def answer(x):
        if failure := next(failures):
            raise failure
        return x

    runtime.answer = answer
    first, second = await executor.execute([request(1), request(2)])
    assert isinstance(first, InferenceError)
    assert "secret" not in str(first)
    assert numbers([second]) == [[2]]


@given(st.lists(st.booleans(), min_size=1, max_size=33))
def test_a_request_that_the_model_cannot_do_fails_alone(good):
    def answer(x):
        if (x < 0).any():
            raise IndexError("out of range")
        return 2 * x

    runtime = FakeRuntime()
    runtime.answer = answer
    executor = Started(Executor(runtime, None, PATIENCE, batched=True, usual=0.0))
    outcome = executor.begin([request(number if fine else -1) for number, fine in enumerate(good)])
    if len(good) == 1 and not good[0]:
        with pytest.raises(IndexError):
            outcome.result(60)
    else:
        replies = outcome.result(60)
        for number, (fine, reply) in enumerate(zip(good, replies, strict=True)):
            assert numbers([reply]) == [[2 * number]] if fine else isinstance(reply, InferenceError)
    bad = good.count(False)
    assert len(runtime.plain_threads) <= 1 + 2 * bad * math.ceil(math.log2(len(good)))
    executor.close()


async def test_a_thread_that_could_not_be_prepared_costs_a_batch_and_is_prepared_for_the_next():
    runtime = FakeRuntime()
    failures = iter([MemoryError(), None])

    def prepare():
        if failure := next(failures):
            raise failure

    runtime.prepare_thread = prepare
    executor = Started(Executor(runtime, None, PATIENCE, batched=True, usual=0.0))
    with pytest.raises(MemoryError):
        await executor.execute([request(1)])
    for _ in range(3):
        assert numbers(await executor.execute([request(2)])) == [[4]]
    executor.close()


@hasty
async def test_an_observed_batch_that_hangs_is_answered_plain_and_observation_resumes_when_it_returns(
    parts, caplog
):
    runtime, recorder, executor = parts
    runtime.hang.clear()
    assert numbers(await executor.execute([request(1), request(2)])) == [[2], [4]]
    assert "an observed batch is stuck" in caplog.text
    for number in range(100):
        assert numbers(await executor.execute([request(number)])) == [[2 * number]]
    assert len(runtime.observed_threads) == 1
    assert len(set(runtime.plain_threads)) == 1
    assert set(runtime.plain_threads).isdisjoint(runtime.observed_threads)
    runtime.hang.set()
    await asyncio.to_thread(recorder.close_seen.wait, 60)
    await executor.execute([request(3)])
    assert len(runtime.observed_threads) == 2
    assert recorder.opened == recorder.closed == 2


@hasty
async def test_a_batch_that_hung_and_then_raised_changes_nothing(parts):
    runtime, recorder, executor = parts
    runtime.hang.clear()
    runtime.failure = ValueError("telemetry")
    assert numbers(await executor.execute([request(1)])) == [[2]]
    runtime.hang.set()
    await asyncio.to_thread(recorder.close_seen.wait, 60)
    assert numbers(await executor.execute([request(2)])) == [[4]]


async def test_a_model_that_is_usually_slow_is_not_stuck(parts):
    runtime, recorder, _ = parts
    executor = Started(Executor(runtime, recorder, PATIENCE, batched=True, usual=6.0))
    runtime.hang.clear()
    running = asyncio.create_task(executor.execute([request(1)]))
    await asyncio.to_thread(runtime.entered.wait, 60)
    await asyncio.wait([running], timeout=3 * PATIENCE)
    assert runtime.plain_threads == []
    runtime.hang.set()
    assert numbers(await running) == [[2]]
    executor.close()


@hasty
async def test_time_of_the_model_counts_runs_that_were_given_up(parts):
    runtime, recorder, executor = parts
    runtime.hang.clear()
    await executor.execute([request(1)])
    before = executor.seconds
    runtime.hang.set()
    await asyncio.to_thread(recorder.close_seen.wait, 60)
    assert executor.seconds >= before + PATIENCE


@hasty
async def test_a_batch_that_is_answered_as_its_patience_ends_is_not_answered_twice(parts):
    runtime, recorder, executor = parts
    answered, gate = recorder.close_seen, threading.Event()

    def close():
        answered.set()
        assert gate.wait(60)

    recorder.close = close
    running = asyncio.create_task(executor.execute([request(1)]))
    await asyncio.to_thread(answered.wait, 60)
    await asyncio.wait([running], timeout=3 * PATIENCE)
    assert not running.done()
    gate.set()
    assert numbers(await running) == [[2]]
    assert runtime.plain_threads == []


async def test_a_model_that_never_runs_has_no_thread_and_one_that_ran_leaves_none():
    def ours():
        return {thread for thread in threading.enumerate() if thread.name.startswith("sidecar-")}

    before = ours()
    executor = Executor(FakeRuntime(), FakeRecorder(), PATIENCE, batched=True, usual=0.0)
    assert not ours() - before
    started = Started(executor)
    await started.execute([request(1)])
    assert len(ours() - before) == 2
    started.close()
    for thread in ours() - before:
        await asyncio.to_thread(thread.join, 60)
    assert not ours() - before
