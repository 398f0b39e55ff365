"""What answering may cost: a token bucket of CPU seconds, for the whole process."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from sidecar.errors import OverloadedError
from sidecar.types import Clock

T = TypeVar("T")

BURST_SECONDS = 5.0


class Budget:
    """Fills by `share` of the time that passes, up to five CPU seconds; answers are refused while it is empty.

    An answer is admitted before its cost is known, so the bucket may go below empty by what those underway take.
    """

    def __init__(self, share: float, clock: Clock) -> None:
        """clock: seconds that only go forward, `time.monotonic`."""
        self._share, self._clock = share, clock
        self._level, self._at = BURST_SECONDS, clock()
        self._lock = threading.Lock()

    def admit(self) -> None:
        """Raises OverloadedError that says when to try again."""
        with self._lock:
            self._fill()
            if self._level <= 0:
                wait = math.ceil(-self._level / self._share) + 1
                raise OverloadedError(f"answers have taken console.budget; try again in {wait} s")

    def charge(self, seconds: float) -> None:
        with self._lock:
            self._fill()
            self._level -= seconds

    def charged(self, make: Callable[[], T]) -> T:
        """What `make` returns or raises; the CPU time of this thread is charged."""
        began = time.thread_time()
        try:
            return make()
        finally:
            self.charge(time.thread_time() - began)

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._level + self._share * (now - self._at), BURST_SECONDS)
        self._at = now
