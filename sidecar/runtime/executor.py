"""Runs batches of one model on a thread of its own, observed or plain, and outlives telemetry that hangs."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from sidecar.errors import InferenceError
from sidecar.runtime import Runtime, concatenate
from sidecar.runtime.thread import ModelThread
from sidecar.types import InferReply, InferRequest, Recorder, Tensor

_log = logging.getLogger("sidecar.runtime")

Run = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]

# An observed batch is given ten times the usual run before it counts as stuck.
_USUAL_RUNS = 10


class Executor:
    """`execute` of a Servable.

    recorder: decides batch by batch whether the instrumented variant runs; None to always run the plain one.
    patience: seconds beyond ten usual runs after which an observed batch counts as stuck: its requests are then
        answered by the plain variant, and nothing is observed until the stuck run returns.
    usual: seconds that a run is expected to take, until there were runs to learn it from.
    """

    def __init__(
        self,
        runtime: Runtime,
        recorder: Recorder | None,
        patience: float,
        *,
        batched: bool,
        usual: float,
    ) -> None:
        self.seconds = 0.0
        self._runtime = runtime
        self._recorder = recorder
        self._patience = patience
        self._batched = batched
        self._usual = usual
        self._thread = ModelThread(self._runtime.prepare_thread)
        self._observed: _Observed | None = None

    async def execute(self, requests: Sequence[InferRequest]) -> list[InferReply]:
        run = self._thread.run(self._run, requests)
        if self._recorder is None:
            return await run
        while True:
            done, _ = await asyncio.wait([run], timeout=self._patience + _USUAL_RUNS * self._usual)
            observed = self._observed if self._observed and self._observed.requests is requests else None
            if done and (observed is None or run.exception() is None):
                return run.result()
            if observed is not None and not done:
                if not observed.claim():
                    continue
                _log.error("an observed batch is stuck; the plain variant answers it")
                self._thread.close()
                self._thread = ModelThread(self._runtime.prepare_thread)
            if observed is not None:
                # Whatever went wrong may be telemetry's fault; if the model is at fault, it fails again here.
                return await self._thread.run(self._reply, requests, self._runtime.plain)

    def _run(self, requests: Sequence[InferRequest]) -> list[InferReply]:
        recorder = self._recorder
        if recorder is None or not recorder.open(requests):
            self._observed = None
            return self._reply(requests, self._runtime.plain)
        observed = self._observed = _Observed(requests)

        def instrumented(batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            outputs = self._runtime.instrumented(batch)
            recorder.answered(outputs)
            return outputs

        try:
            return self._reply(requests, instrumented, observed)
        finally:
            recorder.close()

    def _reply(
        self, requests: Sequence[InferRequest], run: Run, observed: _Observed | None = None
    ) -> list[InferReply]:
        started = time.perf_counter()
        try:
            outputs = run(concatenate([request.inputs for request in requests]))
        finally:
            took = time.perf_counter() - started
            self.seconds += took
        replies = self._split(requests, outputs)
        # A run that came back after it was abandoned says nothing about how long runs take.
        if observed is None or observed.claim():
            self._usual += 0.1 * (took - self._usual)
        return replies

    def _split(self, requests: Sequence[InferRequest], outputs: Mapping[str, Tensor]) -> list[InferReply]:
        if not self._batched:
            return [InferReply(outputs)]
        rows = sum(request.rows for request in requests)
        for name, tensor in outputs.items():
            if tensor.array.shape[:1] != (rows,):
                raise InferenceError(
                    f"output {name} has shape {tensor.array.shape} for a batch of {rows} rows"
                )
        replies, start = [], 0
        for request in requests:
            part = slice(start, start + request.rows)
            replies.append(
                InferReply({name: Tensor(t.datatype, t.array[part]) for name, t in outputs.items()})
            )
            start += request.rows
        return replies

    def close(self) -> None:
        self._thread.close()


class _Observed:
    """One observed batch: its thread completes it or the event loop abandons it, whoever claims it first."""

    def __init__(self, requests: Sequence[InferRequest]) -> None:
        self.requests = requests
        self._claimed = threading.Lock()

    def claim(self) -> bool:
        """True for the first caller only."""
        return self._claimed.acquire(blocking=False)
