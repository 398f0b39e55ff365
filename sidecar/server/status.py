"""What a client is told when its call fails, one table from error class to gRPC status, and what the log is told."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import grpc

from sidecar import errors, log

logger = logging.getLogger("sidecar.server")
access = logging.getLogger("sidecar.access")

Metadata = Iterable[tuple[str, str | bytes]]

# W3C Trace Context, 3.2: version, trace id, parent id, flags. Ids of zeros alone are invalid.
TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

CODES: dict[type[BaseException], grpc.StatusCode] = {
    errors.InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownModelError: grpc.StatusCode.NOT_FOUND,
    errors.NotReadyError: grpc.StatusCode.UNAVAILABLE,
    errors.OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.OutOfMemoryError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ExpiredError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.InferenceError: grpc.StatusCode.INTERNAL,
    errors.UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
    errors.LoadError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    errors.WithheldError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    asyncio.CancelledError: grpc.StatusCode.CANCELLED,
}
"""Anything else is INTERNAL, with a text that says nothing of the inside."""

# A text may quote the client's own words, and a status must fit the 8 KiB that gRPC allows for metadata,
# where one character can take twelve bytes.
MAX_TEXT = 500


UNFORESEEN = "the server failed; its log says why"


def code_of(error: BaseException) -> grpc.StatusCode:
    return CODES.get(type(error), grpc.StatusCode.INTERNAL)


def reason_of(error: BaseException) -> str:
    """By which a failed request is counted: that of its error, or what became of its client."""
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    return error.reason if isinstance(error, errors.RequestError) else "other"


def text_of(error: BaseException) -> str:
    """What the client may read of `error`; the log gets what it may not."""
    return str(error)[:MAX_TEXT] if isinstance(error, errors.RequestError) else UNFORESEEN


def log_failure(
    error: BaseException, metadata: Metadata, message: Any = None, method: str = "", id: str = ""
) -> None:
    """Write one line about a call that failed: why, and the ids by which its client finds it again.

    id: of a request whose message does not have it.
    Of `message` only its id and the names in it are told, and of the metadata only the trace id. What a client did
    wrong is a line of `sidecar.access`; what nobody foresaw comes with its traceback.
    """
    fields = {
        "method": method,
        "request_id": id or getattr(message, "id", ""),
        "trace_id": trace_id(metadata),
        "model": getattr(message, "model_name", "") or getattr(message, "name", ""),
        "version": getattr(message, "model_version", "") or getattr(message, "version", ""),
        "code": code_of(error).name,
    }
    with log.request(fields):
        if isinstance(error, errors.RequestError):
            access.warning("%s", text_of(error))
        else:
            logger.error("a call failed for a reason nobody foresaw", exc_info=error)


def trace_id(metadata: Metadata) -> str:
    """That of the `traceparent` among the metadata, "" without a valid one."""
    given = dict(metadata).get("traceparent", "")
    found = TRACEPARENT.fullmatch(given) if isinstance(given, str) else None
    return found[1] if found else ""


def advice_of(error: BaseException) -> tuple[tuple[str, str], ...]:
    """Trailing metadata for the client: `retry-after-ms` where trying again later is worth it."""
    if isinstance(error, errors.OverloadedError) and error.retry_after > 0:
        return (("retry-after-ms", str(max(round(error.retry_after * 1000), 1))),)
    return ()


class ErrorsAsStatus:
    """`async with ErrorsAsStatus(context, message):` ends the call with the status of whatever is raised inside.

    A context manager rather than a handler, because here too no error may pass unseen: grpc would send
    the text of an unknown one to the client.
    """

    __slots__ = ("_context", "_message")

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any], message: Any = None) -> None:
        self._context = context
        self._message = message

    async def __aenter__(self) -> None:
        return

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, grpc.aio.AbortError):
            return  # nothing raised, or the call was cancelled and nobody listens, or it has its status
        log_failure(error, self._context.invocation_metadata() or (), self._message)
        await self._context.abort(code_of(error), text_of(error), advice_of(error))
