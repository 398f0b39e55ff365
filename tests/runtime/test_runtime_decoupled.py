"""The replies of a decoupled model go out one by one, and neither telemetry nor a client that left can spoil them."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from queue import SimpleQueue
from types import SimpleNamespace

import numpy as np
import pytest

from sidecar.errors import OutOfMemoryError
from sidecar.runtime import new
from sidecar.runtime.decoupled_executor import DecoupledExecutor
from sidecar.types import InferRequest, Tensor

HASTE = 0.05


class Talker:
    """Replies 0, 1, 2, the same from both variants.

    hang_at: reply before which the instrumented variant waits for `hang`.
    fail_at, plain_fail_at: reply before which a variant raises `failure`.
    """

    def __init__(self):
        self.hang = threading.Event()
        self.hang_at = self.fail_at = self.plain_fail_at = None
        self.failure = ValueError("broken")
        self.observed, self.plain = [], []
        self.closed = 0
        self.empty = new

    def prepare_thread(self):
        pass

    def instrumented_replies(self, batch):
        self.observed.append(int(batch["x"].array[0]))
        return self._replies(self.hang_at, self.fail_at)

    def plain_replies(self, batch):
        self.plain.append(int(batch["x"].array[0]))
        return self._replies(None, self.plain_fail_at)

    def _replies(self, hang_at, fail_at):
        try:
            for number in range(3):
                if number == hang_at:
                    assert self.hang.wait(60)
                if number == fail_at:
                    raise self.failure
                yield {"y": Tensor("INT64", np.array([number]))}
            return {}
        finally:
            self.closed += 1


class FakeRecorder:
    nanoseconds = 0

    def __init__(self):
        self.opened = self.closed = 0
        self.close_seen = threading.Event()

    def open(self, requests):
        if self.opened > self.closed:
            return False
        self.opened += 1
        return True

    def close(self):
        self.closed += 1
        self.close_seen.set()


class FakeOutlet:
    """Keeps what is sent, up to `most` replies."""

    def __init__(self, most=100):
        self.sent = []
        self._most = most
        self._claim = threading.Lock()

    def claim(self):
        return self._claim.acquire(blocking=False)

    def send(self, reply):
        if len(self.sent) == self._most:
            return False
        self.sent.append(int(reply.outputs["y"].array[0]))
        return True


class FakeBatch:
    def __init__(self, number, most=100):
        self.outlet = FakeOutlet(most)
        self.requests = [
            InferRequest(str(number), {"x": Tensor("INT64", np.array([number]))}, 1, outlet=self.outlet)
        ]
        self.outcome = Future()

    def answer(self, replies):
        self.outcome.set_result(replies)

    def fail(self, error):
        self.outcome.set_exception(error)

    def replies(self):
        (last,) = self.outcome.result(60)
        assert last.outputs == {}
        return self.outlet.sent


class FakeBatches:
    """Batches that a test puts in; None is the last."""

    def __init__(self):
        self.queue = SimpleQueue()

    def serve(self, run, first=None):
        batch = first or self.queue.get()
        while batch is not None and run(batch):
            batch = self.queue.get()


@pytest.fixture
def start():
    """`start(talker, recorder)`: takes batches from then on. patience: before an observed one counts as stuck."""
    started = []

    def start(talker, recorder, patience=60.0):
        executor = DecoupledExecutor(talker, recorder, patience, usual=0.0, instances=1)
        batches = FakeBatches()
        executor.start(batches)
        started.append((talker, executor, batches))
        return batches.queue.put

    yield start
    for talker, executor, batches in started:
        talker.hang.set()
        batches.queue.put(None)
        executor.close()


@pytest.mark.parametrize("observed", [True, False])
def test_every_reply_goes_through_the_outlet_and_the_batch_gets_the_end(start, observed):
    talker, recorder, batch = Talker(), FakeRecorder(), FakeBatch(1)
    start(talker, recorder if observed else None)(batch)
    assert batch.replies() == [0, 1, 2]
    (last,) = batch.outcome.result()
    assert last.cost.compute > 0
    assert last.cost.output_bytes == 3 * 8
    assert (talker.observed, talker.plain) == (([1], []) if observed else ([], [1]))
    assert recorder.opened == recorder.closed == observed


@pytest.mark.parametrize("observed", [True, False])
def test_a_generation_that_nobody_wants_more_of_is_closed(start, observed):
    talker, batch = Talker(), FakeBatch(1, most=1)
    start(talker, FakeRecorder() if observed else None)(batch)
    assert batch.replies() == [0]
    assert talker.closed == 1


def test_an_instrumented_variant_that_raises_before_its_first_reply_is_replaced_by_the_plain_one(start):
    talker, recorder = Talker(), FakeRecorder()
    talker.fail_at = 0
    put = start(talker, recorder)
    for number in range(3):
        batch = FakeBatch(number)
        put(batch)
        assert batch.replies() == [0, 1, 2]
    assert talker.observed == talker.plain == [0, 1, 2]
    assert recorder.opened == recorder.closed == 3


def test_a_model_that_raises_after_a_reply_is_not_run_again(start):
    talker, recorder, batch = Talker(), FakeRecorder(), FakeBatch(1)
    talker.fail_at = 2
    start(talker, recorder)(batch)
    with pytest.raises(ValueError, match="broken"):
        batch.outcome.result(60)
    assert (batch.outlet.sent, talker.plain, recorder.closed) == ([0, 1], [], 1)


def test_a_model_that_raises_is_told_so_once(start):
    talker, batch = Talker(), FakeBatch(1)
    talker.fail_at = talker.plain_fail_at = 0
    start(talker, FakeRecorder())(batch)
    with pytest.raises(ValueError, match="broken"):
        batch.outcome.result(60)
    assert (talker.observed, talker.plain) == ([1], [1])


def test_without_memory_telemetry_is_shed_first_and_then_the_request(start):
    talker, put = Talker(), None
    talker.failure = MemoryError()
    talker.fail_at, put = 0, start(talker, FakeRecorder())
    first, second = FakeBatch(1), FakeBatch(2)
    put(first)
    assert first.replies() == [0, 1, 2]
    talker.plain_fail_at = 1
    put(second)
    (error,) = second.outcome.result(60)
    assert isinstance(error, OutOfMemoryError)


def test_an_observed_generation_that_hangs_at_once_is_given_by_the_plain_variant(start, caplog):
    talker, recorder, batch, other = Talker(), FakeRecorder(), FakeBatch(1), FakeBatch(2)
    talker.hang_at = 0
    put = start(talker, recorder, HASTE)
    put(batch)
    assert batch.replies() == [0, 1, 2]
    assert "an observed batch is stuck" in caplog.text
    put(other)
    assert other.replies() == [0, 1, 2]
    assert (talker.observed, talker.plain) == ([1], [1, 2])
    talker.hang.set()
    assert recorder.close_seen.wait(60)
    assert batch.outlet.sent == [0, 1, 2]


def test_one_that_hangs_after_a_reply_holds_up_nobody_and_goes_on_when_it_returns(start):
    talker, recorder, batch, other = Talker(), FakeRecorder(), FakeBatch(1), FakeBatch(2)
    talker.hang_at = 1
    put = start(talker, recorder, HASTE)
    put(batch)
    put(other)
    assert other.replies() == [0, 1, 2]
    assert batch.outlet.sent == [0]
    talker.hang.set()
    assert batch.replies() == [0, 1, 2]
    assert talker.observed == [1]


def test_seconds_are_those_of_the_model_and_not_of_a_client_that_reads_slowly(start, monkeypatch):
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    for module in ("executor", "decoupled_executor"):
        monkeypatch.setattr(f"sidecar.runtime.{module}.time", clock)
    talker, batch = Talker(), FakeBatch(1)

    def replies(batch):
        now[0] += 1
        yield from Talker().plain_replies(batch)
        now[0] += 1
        return {}

    def send(reply):
        now[0] += 1000
        return True

    talker.plain_replies, batch.outlet.send = replies, send
    start(talker, None)(batch)
    (last,) = batch.outcome.result(60)
    assert last.cost.compute == 2.0


def test_the_time_that_a_client_takes_to_read_does_not_count_as_an_observers(monkeypatch):
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    for module in ("executor", "decoupled_executor"):
        monkeypatch.setattr(f"sidecar.runtime.{module}.time", clock)
    executor = DecoupledExecutor(Talker(), FakeRecorder(), 60.0, usual=0.0, instances=1)
    batch, batches, seen = FakeBatch(1), FakeBatches(), []

    def send(reply):
        now[0] += 1000
        seen.append(executor._observed.seconds())
        return True

    batch.outlet.send = send
    executor.start(batches)
    batches.queue.put(batch)
    batches.queue.put(None)
    batch.outcome.result(60)
    executor.close()
    assert seen == [0.0, 0.0, 0.0]
