"""The rule that telemetry cannot fail a request, in one place."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_log = logging.getLogger("sidecar.telemetry")

P = ParamSpec("P")
T = TypeVar("T")


class Guard:
    """Runs telemetry, keeps its errors to itself and counts them by part.

    failures: part -> errors so far; exported as `sidecar_telemetry_failures_total`.
    """

    PARTS = ("sampling", "tap", "drain", "judge")

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter(dict.fromkeys(self.PARTS, 0))

    def shield(self, part: str, function: Callable[P, T], otherwise: T) -> Callable[P, T]:
        """`function`, answering `otherwise` instead of raising."""

        def shielded(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return function(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - whatever telemetry does, the request must go on
                self.failures[part] += 1
                # The first of a kind with its traceback; a fault in a hook would flood the log.
                if self.failures[part] & (self.failures[part] - 1) == 0:
                    _log.error("%s failed (%d so far)", part, self.failures[part], exc_info=error)
                return otherwise

        return shielded
