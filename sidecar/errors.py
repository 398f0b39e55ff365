"""Every error this software raises on purpose; `server/status.py` maps them to gRPC status codes.

A message says what was wrong and what is allowed. It is shown to clients, so it never names a path,
a library or anything else of the inside unless the class says that only operators see it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Literal


class SidecarError(Exception):
    """Root of the tree. Never raised itself."""


class ConfigError(SidecarError):
    """A setting, file or command line that cannot be used. Shown to operators only."""


class ModelError(SidecarError):
    """A model that cannot be loaded or does not do what its settings say. Shown to operators only."""


class BaselineError(SidecarError):
    """A baseline file that is damaged, or was recorded from something else. Shown to operators only."""


class UnreachableError(BaselineError):
    """A sidecar that gives nobody its window now, whatever the model. Shown to operators only."""


class SketchError(SidecarError):
    """Sketches of different shapes were merged, or stored bytes are not a sketch."""


class StoreError(SidecarError):
    """The store of panes cannot be read or written. Shown to operators only; telemetry goes on without it."""


class RequestError(SidecarError):
    """Root of what a client is told about its own request. reason: by which such errors are counted."""

    reason = "other"


class InvalidInputError(RequestError):
    """Name, shape, datatype or size of an input is not what the model takes."""

    reason = "invalid"


class UnknownModelError(RequestError):
    """No model of that name and version is served here."""


class NotReadyError(RequestError):
    """The model exists and cannot answer now (loading, stopping)."""

    reason = "not_ready"


class OverloadedError(RequestError):
    """The queue is full or too slow for the request, which was refused before any work was done.

    retry_after: seconds after which it is worth another try, as far as that can be told; 0 where it cannot.
    """

    def __init__(self, text: str, retry_after: float = 0.0, reason: str = "queue_full") -> None:
        super().__init__(text)
        self.retry_after = retry_after
        self.reason = reason


class OutOfMemoryError(RequestError):
    """The model found no memory for the request, even alone and unobserved."""

    reason = "memory"


class ExpiredError(RequestError):
    """The client's deadline passed while the request waited."""

    reason = "expired"


class InferenceError(RequestError):
    """The model raised. The log has the reason; the client is told only that it failed."""

    reason = "model"


class UnsupportedError(RequestError):
    """The protocol has it, this server does not, or it is switched off."""


class LoadError(RequestError):
    """A version was to be loaded and does not take traffic. The log has the reason."""


class ForbiddenError(RequestError):
    """An admin call where server.admin is false."""


class WithheldError(RequestError):
    """An aggregate of so few requests that it could tell of one of them."""


class UnauthenticatedError(RequestError):
    """The bearer token is missing or wrong."""


class Caught:
    """`with Caught() as caught:` keeps what is raised inside, so that no kind of error can end a thread.

    error: None while nothing was.
    """

    __slots__ = ("error",)

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> Caught:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[True]:
        self.error = error
        return True
