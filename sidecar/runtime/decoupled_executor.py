"""Runs the requests of a decoupled model, each alone and to its end or for as long as anybody wants its replies."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing

from sidecar.errors import Caught, OutOfMemoryError
from sidecar.runtime.decoupled import DecoupledRuntime, Outputs, Replies
from sidecar.runtime.executor import Executor, Observed, byte_count
from sidecar.runtime.memory import found_no_memory
from sidecar.types import Batch, Cost, InferReply, InferRequest, Recorder, Tensor

Start = Callable[[Mapping[str, Tensor]], Replies]


class DecoupledExecutor(Executor):
    """As `Executor`, with replies that go through the outlet of their request, and the last to its batch.

    All forward passes for a request are one observed request. A reply that takes as long as a stuck batch has another
    thread take the requests that follow. Whichever of the two has the first reply for its request gives all: no client
    ever gets the replies of two runs.
    """

    def __init__(
        self, runtime: DecoupledRuntime, recorder: Recorder | None, patience: float, *, usual: float, instances: int
    ) -> None:  # fmt: skip
        super().__init__(runtime, recorder, patience, batched=False, usual=usual, instances=instances)
        self._decoupled = runtime

    def _run(self, batch: Batch) -> bool:
        recorder = self._recorder
        if recorder is None or not self._opened(recorder, batch):
            self._run_plain(batch)
            return True
        steps = self._observed = _Steps(batch)
        reported = recorder.nanoseconds
        last: InferReply | None = None
        with Caught() as caught:
            try:
                last = self._generate(steps, self._decoupled.instrumented_replies)
            finally:
                if mine := steps.claim():
                    self._observed = None
                recorder.close()
        if last is not None:
            last.cost = last.cost._replace(telemetry=(recorder.nanoseconds - reported) / 1e9)
            batch.answer([last])
        elif caught.error is not None and steps.begun:
            _fail(batch, caught.error)
        elif caught.error is not None and mine:
            # Whatever went wrong may be telemetry's fault, and nobody has seen a reply yet.
            self._run_plain(batch)
        return mine

    def _run_plain(self, batch: Batch) -> None:
        steps = _Steps(batch)
        last: InferReply | None = None
        with Caught() as caught:
            last = self._generate(steps, self._decoupled.plain_replies)
        if last is not None:
            batch.answer([last])
        elif caught.error is not None and (steps.begun or steps.begin()):
            _fail(batch, caught.error)

    def _generate(self, steps: _Steps, start: Start) -> InferReply | None:
        """Send all replies but the last; None where another thread has begun to. Raises what the model raises."""
        began = time.perf_counter()
        inputs = self._batch([steps.request])
        assembled = time.perf_counter()
        compute, output_bytes = 0.0, 0
        with closing(start(inputs)) as replies:
            more = True
            while more:
                outputs, more, seconds = self._step(replies, steps)
                if not steps.begun and not steps.begin():
                    return None
                compute += seconds
                output_bytes += byte_count(outputs)
                if more and not steps.send(InferReply(outputs)):
                    outputs, more = {}, False
        cost = Cost(assembled - began, compute, 0.0, byte_count(inputs), output_bytes)
        return InferReply(outputs, cost)

    def _step(self, replies: Replies, steps: _Steps) -> tuple[Outputs, bool, float]:
        """The next outputs, whether more may follow, and the seconds that they took."""
        steps.restart()
        try:
            try:
                outputs, more = next(replies), True
            except StopIteration as end:
                outputs, more = end.value, False
        finally:
            seconds = steps.seconds()
            with self._adding:
                self.seconds += seconds
        self._usual += 0.1 * (seconds - self._usual)
        return outputs, more, seconds


class _Steps(Observed):
    """One request whose replies are made, one step for each. Its seconds are those of the step that runs now.

    begun: this thread gives its replies.
    """

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self.begun = self._sending = False
        self.request: InferRequest = batch.requests[0]
        assert self.request.outlet is not None
        self._outlet = self.request.outlet

    def restart(self) -> None:
        self._started = time.perf_counter()

    def seconds(self) -> float:
        return 0.0 if self._sending else super().seconds()

    def begin(self) -> bool:
        self.begun = self._outlet.claim()
        return self.begun

    def send(self, reply: InferReply) -> bool:
        """False where nobody wants more. A client that reads slowly is no fault of the observers."""
        self._sending = True
        try:
            return self._outlet.send(reply)
        finally:
            self.restart()
            self._sending = False


def _fail(batch: Batch, error: BaseException) -> None:
    if found_no_memory(error):
        batch.answer([OutOfMemoryError("the model finds no memory for this request")])
    else:
        batch.fail(error)
