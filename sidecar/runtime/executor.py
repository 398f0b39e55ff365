"""Runs the batches of one model on threads of its own, observed or plain, and outlives telemetry that hangs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from sidecar.errors import Caught, InferenceError, OutOfMemoryError, RequestError
from sidecar.runtime import Runtime, concatenate, padding
from sidecar.runtime.memory import found_no_memory
from sidecar.types import Batch, Batches, Cost, InferReply, InferRequest, Ragged, Recorder, Tensor

_log = logging.getLogger("sidecar.runtime")
# Of what the model cannot do clients can send as much as they like, so the log limits it.
_model_log = logging.getLogger("sidecar.model")

Run = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]

# An observed batch is given ten times the usual run before it counts as stuck.
_USUAL_RUNS = 10


class Executor:
    """`start` of a Servable.

    recorder: decides batch by batch whether the instrumented variant runs; None to always run the plain one.
    patience: seconds beyond ten usual runs after which an observed batch counts as stuck: its requests are then
        answered by the plain variant on a new thread, which takes the place of the old one, and nothing is observed
        until the stuck run returns.
    usual: seconds that a run is expected to take, until there were runs to learn it from.
    instances: threads that run batches at the same time. One batch is observed at a time, on whichever of them it
        comes, because the banks that an observed batch writes have one writer; what else is chosen meanwhile is
        answered by the plain variant and counted as dropped.
    ragged: how requests of different lengths are put together; None where they are not.
    """

    def __init__(
        self,
        runtime: Runtime,
        recorder: Recorder | None,
        patience: float,
        *,
        batched: bool,
        usual: float,
        instances: int = 1,
        ragged: Ragged | None = None,
    ) -> None:
        self.seconds = 0.0
        self._instances = instances
        self._ragged = ragged
        self._opening, self._adding = threading.Lock(), threading.Lock()
        self._runtime = runtime
        self._recorder = recorder
        self._patience = patience
        self._batched = batched
        self._usual = usual
        self._observed: Observed | None = None
        self._closed = threading.Event()

    def start(self, batches: Batches) -> None:
        """Run all of `batches` until there are no more, on threads of their own."""
        for _ in range(self._instances):
            self._begin(batches, None)
        if self._recorder is not None:
            _thread("sidecar-watchdog", self._watch, batches)

    def close(self) -> None:
        """End what watches the batches; to be called when there are no more."""
        self._closed.set()

    def _begin(self, batches: Batches, stuck: Batch | None) -> None:
        _thread("sidecar-model", self._work, batches, stuck)

    def _work(self, batches: Batches, stuck: Batch | None) -> None:
        prepared = False

        def run(batch: Batch) -> bool:
            nonlocal prepared, stuck
            plain = batch is stuck
            # Its requests shall not live on with the thread.
            stuck = None
            # Here, because an error now costs this batch only, and is met again by the next.
            if not prepared:
                self._runtime.prepare_thread()
                if self._instances > 1:
                    self._runtime.prepare_instance()
                prepared = True
            if not plain:
                return self._run(batch)
            self._run_plain(batch)
            return True

        batches.serve(run, stuck)

    def _run(self, batch: Batch) -> bool:
        """False: it took so long that another thread answers the batch and has taken the place of this one."""
        recorder = self._recorder
        if recorder is None or not self._opened(recorder, batch):
            self._run_plain(batch)
            return True
        observed = self._observed = Observed(batch)
        reported = recorder.nanoseconds

        def instrumented(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            outputs = self._runtime.instrumented(inputs)
            recorder.answered(outputs)
            return outputs

        replies: list[InferReply] = []
        with Caught() as caught:
            try:
                replies = self._replies(batch.requests, instrumented)
            finally:
                # The next to be observed may begin as soon as the recorder is closed.
                if mine := observed.claim():
                    self._observed = None
                recorder.close()
        if not mine:
            return False
        if caught.error is None:
            self._usual += 0.1 * (observed.seconds() - self._usual)
            cost = replies[0].cost._replace(telemetry=(recorder.nanoseconds - reported) / 1e9)
            for reply in replies:
                reply.cost = cost
            batch.answer(replies)
        else:
            # Whatever went wrong may be telemetry's fault; if the model is at fault, it fails again here.
            self._run_plain(batch)
        return True

    def _opened(self, recorder: Recorder, batch: Batch) -> bool:
        # What decides, and what it decides by, is made for one thread.
        with self._opening:
            return recorder.open(batch.requests)

    def _run_plain(self, batch: Batch) -> None:
        replies: list[InferReply] = []
        started = time.perf_counter()
        with Caught() as caught:
            replies = self._replies(batch.requests, self._runtime.plain)
        if caught.error is None:
            self._usual += 0.1 * (time.perf_counter() - started - self._usual)
            batch.answer(replies)
        elif len(batch.requests) > 1 or found_no_memory(caught.error):
            batch.answer(self._apart(batch.requests, caught.error))
        else:
            batch.fail(caught.error)

    def _apart(self, requests: Sequence[InferRequest], error: BaseException) -> list[InferReply | Exception]:
        """What becomes of `requests`, which failed together with `error`: each half of them runs by itself, and so on
        down to those that fail alone. One among n costs its neighbours 2 log2(n) runs.
        """
        if len(requests) == 1:
            return [self._refusal(error)]
        outcomes: list[InferReply | Exception] = []
        middle = len(requests) // 2
        for half in (requests[:middle], requests[middle:]):
            with Caught() as caught:
                outcomes += self._replies(half, self._runtime.plain)
            if caught.error is not None:
                outcomes += self._apart(half, caught.error)
        return outcomes

    def _refusal(self, error: BaseException) -> RequestError:
        """What the client of a request is told that fails alone; the log is told why."""
        if found_no_memory(error):
            _model_log.error("the model found no memory for a request that ran alone")
            return OutOfMemoryError("the model finds no memory for this request; send fewer rows")
        _model_log.error("the model failed on a request that ran alone", exc_info=error)
        return InferenceError("the model failed")

    def _replies(self, requests: Sequence[InferRequest], run: Run) -> list[InferReply]:
        began = time.perf_counter()
        inputs = self._batch(requests)
        started = time.perf_counter()
        try:
            outputs = run(inputs)
        finally:
            ended = time.perf_counter()
            with self._adding:
                self.seconds += ended - began
        replies = self._split(requests, outputs)
        split = time.perf_counter()
        cost = Cost(started - began, ended - started, split - ended, byte_count(inputs), byte_count(outputs))
        for reply in replies:
            reply.cost = cost
        return replies

    def _batch(self, requests: Sequence[InferRequest]) -> Mapping[str, Tensor]:
        if self._ragged is not None:
            return padding.pad(requests, self._ragged, self._runtime.empty)
        return concatenate([request.inputs for request in requests], self._runtime.empty)

    def _split(self, requests: Sequence[InferRequest], outputs: Mapping[str, Tensor]) -> list[InferReply]:
        if not self._batched:
            return [InferReply(outputs)]
        rows = sum([request.rows for request in requests])
        for name, tensor in outputs.items():
            if tensor.array.shape[:1] != (rows,):
                raise InferenceError(
                    f"output {name} has shape {tensor.array.shape} for a batch of {rows} rows"
                )
        ragged = self._ragged
        if ragged is not None:
            padding.check(outputs, requests[0].bucket, ragged)
        replies, start = [], 0
        for request in requests:
            end = start + request.rows
            own = {name: Tensor(t.datatype, t.array[start:end]) for name, t in outputs.items()}
            if ragged is not None:
                own = padding.cut(own, request.length, ragged)
            replies.append(InferReply(own))
            start = end
        return replies

    def _watch(self, batches: Batches) -> None:
        """The watchdog's thread. It looks when a batch that began at its last look would count as stuck."""
        pause = 0.0
        while not self._closed.wait(pause):
            pause = allowed = self._patience + _USUAL_RUNS * self._usual
            observed = self._observed
            if observed is None:
                continue
            if (left := allowed - observed.seconds()) > 0:
                pause = left
            elif observed.claim():
                _log.error("an observed batch is stuck; the plain variant answers it")
                self._begin(batches, observed.batch)


def byte_count(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of all values; of a string, those it has."""
    return sum(
        [
            sum(map(len, array.flat)) if (array := tensor.array).dtype.hasobject else array.nbytes
            for tensor in tensors.values()
        ]
    )


class Observed:
    """One observed batch: its thread completes it or the watchdog abandons it, whoever claims it first."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self._started = time.perf_counter()
        self._claimed = threading.Lock()

    def seconds(self) -> float:
        """How long it has run."""
        return time.perf_counter() - self._started

    def claim(self) -> bool:
        """True for the first caller only."""
        return self._claimed.acquire(blocking=False)


def _thread(name: str, target: Callable[..., None], *arguments: object) -> None:
    """A daemon, so that a model that hangs cannot keep the process from ending."""
    threading.Thread(target=target, args=arguments, name=name, daemon=True).start()
