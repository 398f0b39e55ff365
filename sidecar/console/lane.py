"""Work beside the event loops, one piece after the other, of which only so much may wait."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sidecar.errors import Caught, NotReadyError, OverloadedError

T = TypeVar("T")


class Lane:
    """A daemon thread while there is work, which may come from any event loop: what hangs in it delays no exit.

    most: pieces that may be underway or wait.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name, self._most = name, most
        self._lock = threading.Lock()
        self._pieces: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises. Raises OverloadedError where too much waits, NotReadyError once closed."""
        done: Future[T] = Future()
        with self._lock:
            if len(self._pieces) >= self._most:
                raise OverloadedError(f"{self._most} questions wait already; try again in 1 s")
            if not self._pieces:
                self._thread = threading.Thread(target=self._work_off, name=self._name, daemon=True)
                self._thread.start()
            self._pieces.append((work, done))
        return await asyncio.wrap_future(done)

    def close(self, wait: bool) -> None:
        """Refuse what waits and what comes. wait: for the piece underway."""
        self._closed = True
        if wait and (thread := self._thread):
            thread.join()

    def _work_off(self) -> None:
        while True:
            with self._lock:
                work, done = self._pieces[0]
            result = None
            with Caught() as caught:
                if self._closed:
                    raise NotReadyError("the sidecar stops")
                if not done.cancelled():
                    result = work()
            with self._lock:
                self._pieces.popleft()
                last = not self._pieces
            if done.set_running_or_notify_cancel():
                if caught.error:
                    done.set_exception(caught.error)
                else:
                    done.set_result(result)
            if last:
                return
