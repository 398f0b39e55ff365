"""The thread that takes sketches off the device, once a second, away from the request path."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sidecar.capture.recorder import Recorder
from sidecar.sketch import Reading
from sidecar.types import Clock


class Drainer:
    """Calls `sink` with what each `recorder.drain` brings.

    seconds: CPU time of this thread so far. last: when a reading last arrived, `clock` seconds; 0 before.
    """

    def __init__(
        self, recorder: Recorder, sink: Callable[[Reading], None], interval: float, clock: Clock
    ) -> None:
        self.seconds = 0.0
        self.last = 0.0
        self._recorder = recorder
        self._clock = clock
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sidecar-drain", daemon=True)
        guard = recorder.guard
        self._drain = guard.shield("drain", recorder.drain, None)
        self._sink = guard.shield("judge", sink, None)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Drain once more and end. A thread that is stuck is left behind; it is a daemon."""
        self._stop.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._take()
        # A bank may wait to be read, and then the other has what came last.
        self._take()
        self._take()

    def _take(self) -> None:
        if reading := self._drain(self._interval):
            self._sink(reading)
            self.last = self._clock()
        self.seconds = time.thread_time()
