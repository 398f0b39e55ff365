"""What a client is told when its call fails: one table from error class to gRPC status."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Any

import grpc

from sidecar import errors

logger = logging.getLogger("sidecar.server")

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


def text_of(error: BaseException) -> str:
    """What the client may read of `error`; the log gets what it may not."""
    if isinstance(error, errors.RequestError):
        return str(error)[:MAX_TEXT]
    logger.error("a call failed for a reason nobody foresaw", exc_info=error)
    return UNFORESEEN


def advice_of(error: BaseException) -> tuple[tuple[str, str], ...]:
    """Trailing metadata for the client: `retry-after-ms` where trying again later is worth it."""
    if isinstance(error, errors.OverloadedError) and error.retry_after > 0:
        return (("retry-after-ms", str(max(round(error.retry_after * 1000), 1))),)
    return ()


class ErrorsAsStatus:
    """`async with ErrorsAsStatus(context):` ends the call with the status of whatever is raised inside.

    A context manager rather than a handler, because here too no error may pass unseen: grpc would send
    the text of an unknown one to the client.
    """

    __slots__ = ("_context",)

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._context = context

    async def __aenter__(self) -> None:
        return

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception):
            return  # nothing raised, or the call was cancelled and nobody listens
        await self._context.abort(code_of(error), text_of(error), advice_of(error))
