"""Which rows of a batch go to which slot, and the two banks that let the drain and the model never wait.

The thread that runs the model calls `open` before an observed batch and `close` after it; the drain
thread calls `drain`. Their one lock is held during an observed batch, and by the drain to switch banks.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from sidecar.capture.banks import banks_on
from sidecar.capture.guard import Guard
from sidecar.capture.inputs import Reservoir
from sidecar.capture.outputs import Outputs
from sidecar.capture.prices import Price
from sidecar.capture.sampling import Choose, Sample
from sidecar.capture.state import TapState
from sidecar.sketch import Moments, Reading
from sidecar.types import Clock, InferRequest, Parameter, Tap, Tensor

# The drain holds the lock for a few instructions; this is for the case that its thread is switched out there.
_FLIP_SECONDS = 0.01

LONGEST_ID = 256
"""Characters of a request's id that are kept, as of the value of a parameter: clients choose how long they are."""

_EVERY = Sample(weight=1.0, common=True)

# Fourth powers about a pivot that lies further out would leave float32.
_LARGEST_PIVOT = 1e8


class Recorder:
    """The state of all taps of one instrumented model.

    choose: a request's sample, or None to leave it alone; called on the thread that runs the model.
    max_rows: rows of the largest batch. shared: several threads run the model, and each may find that another's batch
        is being observed; where only one does, that batch is stuck. slots: sampled requests between two drains.
    sampled, dropped: requests so far; exported as metrics.
    outputs: keeps what a classifier answers; None of other models.
    inputs: keeps copies of some requests' inputs; None where none are to be kept.
    parameters: names of those of a request that readings bring.
    rows: of the batch that `open` announced last, by which taps tell whether they saw all of it.
    padded: where that batch has padding in what is observed, first row, end and length of each observed request, and
        bucket is the length of all; else empty.
    tells_padding: taps can leave padding out; where they cannot, requests that are padded are not observed.
    opening: nanoseconds of `open` so far. nanoseconds: that taps reported so far. charged: those of the taps in
        `prices`, which report none; known once they are drained.
    """

    DROP_REASONS = ("slots", "stuck", "busy", "padded")

    def __init__(
        self, choose: Choose, guard: Guard, *,
        slots: int, max_rows: int, device: torch.device, clock: Clock, shared: bool = False,
        outputs: Outputs | None = None, inputs: Reservoir | None = None, parameters: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.guard = guard
        self.sampled = 0
        self.rows = self.bucket = 0
        self.padded: list[tuple[int, int, int]] = []
        self.tells_padding = True
        self.dropped: Counter[str] = Counter(dict.fromkeys(self.DROP_REASONS, 0))
        self.opening = self.nanoseconds = self.charged = 0
        self.banks = banks_on(device, max(max_rows, 1))
        self.bank, self.row_slot = self.banks.bank, self.banks.row_slot
        self.states: dict[Tap, TapState] = {}
        self.prices: Mapping[Tap, Price] = {}
        self._clock = clock
        self.slots = slots
        self._writing = 0
        self._used = [0, 0]
        self._batches = [0, 0]
        self._weights = np.ones((2, slots))
        self._common = np.ones((2, slots), dtype=np.bool_)
        self._traces = [[""] * slots, [""] * slots]
        self._ids = [[""] * slots for _ in range(2)]
        self._parameters: list[list[Mapping[str, Parameter]]] = [[{}] * slots for _ in range(2)]
        self._told = parameters
        self._outputs = outputs
        self.inputs = inputs
        self._keep = guard.shield("sampling", self._offer, None)
        self._running = threading.Lock()
        self._observing = False
        self._occupied = "busy" if shared else "stuck"
        self._retired = threading.Event()
        self._retire_wanted = False
        self.open = guard.shield("sampling", self._open, False)
        self.answered = guard.shield("tap", self._answered, None)
        self.choose = choose

    def _open(self, requests: Sequence[InferRequest], *, always: bool = False) -> bool:
        """Give sampled requests a slot. True if the instrumented variant shall run, and then `close` must follow.

        False: no request is sampled, all slots are taken, or an observed batch is stuck.
        always: observe all, uncounted, as the self-check does.
        """
        started = time.perf_counter_ns()
        try:
            return self._choose(requests, always=always)
        finally:
            self.opening += time.perf_counter_ns() - started

    def _choose(self, requests: Sequence[InferRequest], *, always: bool) -> bool:
        chosen = [_EVERY if always else self.choose(request) for request in requests]
        if not any(chosen):
            return False
        if self._observing or not self._running.acquire(timeout=_FLIP_SECONDS):
            self.dropped[self._occupied] += len(chosen) - chosen.count(None)
            return False
        try:
            self._observing = self._give_slots(requests, chosen, counted=not always)
        finally:
            if not self._observing:
                self._running.release()
        return self._observing

    def _give_slots(
        self, requests: Sequence[InferRequest], chosen: Sequence[Sample | None], *, counted: bool
    ) -> bool:
        """False when all slots are taken, or the device cannot take them. Called with `_running` held."""
        staged, row, used = self.banks.staged, 0, self._used[self._writing]
        sampled, has_padding = 0, False
        observed: list[tuple[int, int, int]] = []
        weights, common = self._weights[self._writing], self._common[self._writing]
        traces = self._traces[self._writing]
        ids, parameters = self._ids[self._writing], self._parameters[self._writing]
        staged.fill(-1)
        for request, sample in zip(requests, chosen, strict=True):
            first, row = row, row + request.rows
            if sample is None:
                continue
            padded = request.length < request.bucket
            if padded and not self.tells_padding:
                self.dropped["padded"] += 1
            elif used < self.slots:
                staged[first:row] = used
                weights[used], common[used] = sample
                traces[used] = request.trace.trace_id if request.trace is not None else ""
                ids[used] = request.id[:LONGEST_ID]
                parameters[used] = self._kept_of(request.parameters)
                observed.append((first, row, request.length))
                has_padding |= padded
                used += 1
                sampled += 1
            else:
                self.dropped["slots"] += 1
        if not sampled:
            return False
        if not self.banks.send():
            self.dropped["stuck"] += sampled
            return False
        self._used[self._writing] = used
        self._batches[self._writing] += 1
        self.rows, self.bucket = row, requests[0].bucket
        self.padded = observed if has_padding else []
        if counted:
            self.sampled += sampled
            if self.inputs is not None:
                self._keep(requests, chosen)
        return True

    def _kept_of(self, given: Mapping[str, Parameter]) -> Mapping[str, Parameter]:
        if not given:
            return given
        kept = {name: given[name] for name in self._told if name in given}
        return {name: one[:LONGEST_ID] if isinstance(one, str) else one for name, one in kept.items()}

    def _offer(self, requests: Sequence[InferRequest], chosen: Sequence[Sample | None]) -> None:
        assert self.inputs
        for request, sample in zip(requests, chosen, strict=True):
            if sample is not None:
                self.inputs.offer(request)

    def _answered(self, outputs: Mapping[str, Tensor]) -> None:
        """What the batch that `open` announced gave; called before `close`."""
        if self._outputs:
            started = time.perf_counter_ns()
            self._outputs.add(outputs, self.banks.staged, self._writing)
            self.nanoseconds += time.perf_counter_ns() - started

    def close(self) -> None:
        """The batch that `open` announced has run."""
        try:
            self.banks.written()
            if self._retire_wanted:
                self._flip()
        finally:
            self._observing = False
            self._running.release()

    def drain(self, patience: float) -> Reading | None:
        """Take what was seen since the last drain; None when nothing was, or a batch ran all the while.

        patience: seconds to wait for a running batch to end.
        """
        if self._running.acquire(blocking=False):
            try:
                if self._used[self._writing]:
                    self._flip()
            finally:
                self._running.release()
            patience = 0.0
        else:
            self._retire_wanted = True
        if not self._retired.wait(patience):
            return None
        reading = self._read(1 - self._writing)
        self._charge(1 - self._writing, reading)
        self._retired.clear()
        return reading

    def _flip(self) -> None:
        """Write the other bank from now on. Called with `_running` held; does nothing while that bank is unread."""
        if self._retired.is_set():
            return
        self._retire_wanted = False
        self._writing = 1 - self._writing
        self.banks.switch(self._writing)
        self._retired.set()

    def _read(self, bank: int) -> Reading:
        used = self._used[bank]
        weights, common = self._weights[bank, :used].copy(), self._common[bank, :used].copy()
        sketches, rows, peaks = {}, {}, {}
        contents = self.banks.fetch(self.states, bank)
        for (tap, state), held in zip(self.states.items(), contents, strict=True):
            sketches[tap], seen = state.decode(held, used)
            rows[tap] = replace(seen, weights=weights, common=common)
            peaks[tap] = state.found_peaks(held)
        self.banks.clear(self.states, bank, used, [_pivot(sketch.moments) for sketch in sketches.values()])
        self._used[bank] = 0
        ids, parameters = tuple(self._ids[bank][:used]), tuple(self._parameters[bank][:used])
        # Of what clients chose the size, nothing shall stay until it is written over.
        self._ids[bank][:used] = [""] * used
        self._parameters[bank][:used] = [{}] * used
        return Reading(
            at=self._clock(),
            sketches=sketches,
            rows=rows,
            requests=used,
            ids=ids,
            traces=tuple(self._traces[bank][:used]),
            parameters=parameters,
            outputs=self._outputs.take(bank, used) if self._outputs else None,
            peaks=peaks,
        )

    def _charge(self, bank: int, reading: Reading) -> None:
        for tap, price in self.prices.items():
            self.charged += price.of(self._batches[bank], reading.sketches[tap].counts.values)
        self._batches[bank] = 0

    @property
    def keeps_outputs(self) -> bool:
        """`answered` has something to do."""
        return self._outputs is not None

    def memory(self) -> int:
        """Bytes of state on the device."""
        return sum(buffer.nbytes for state in self.states.values() for buffer in state.buffers())


def _pivot(seen: Moments) -> float:
    """What the next power sums are taken about: the mean where it matters, else 0, which no outlier has moved."""
    return seen.mean if seen.n and seen.stddev < abs(seen.mean) <= _LARGEST_PIVOT else 0.0
