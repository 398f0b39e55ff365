"""How every call ends on grpc.aio's server, of whatever method; the server on the completion queue tells by itself."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any

import grpc

Context = grpc.aio.ServicerContext[Any, Any]

Ended = Callable[[str, str], None]
"""Gets the path of a method and the name of a status, on any thread."""


def uncounted(method: str, code: str) -> None:
    """Where nobody wants to know."""


_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Counting(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Calls `ended` with the end of every call. To stand before all other interceptors."""

    def __init__(self, ended: Ended) -> None:
        self._ended = ended

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        ended = partial(self._ended, handler_call_details.method)
        if handler is None:
            ended("UNIMPLEMENTED")
            return None
        (kind,) = [one for one in _KINDS if getattr(handler, one) is not None]
        answer = getattr(handler, kind)
        counted = _each if inspect.isasyncgenfunction(answer) else _one
        return handler._replace(**{kind: partial(counted, answer, ended)})


class _Counted:
    """`with _Counted(ended, context):` around what a handler does."""

    def __init__(self, ended: Callable[[str], None], context: Context) -> None:
        self._ended = ended
        self._context = context

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._ended("OK")
        elif isinstance(error, grpc.aio.AbortError):
            self._ended(self._context.code().name)
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            self._ended("DEADLINE_EXCEEDED" if self._context.time_remaining() == 0 else "CANCELLED")
        else:
            self._ended("UNKNOWN")


async def _one(
    answer: Callable[..., Awaitable[Any]], ended: Callable[[str], None], message: Any, context: Context
) -> Any:
    with _Counted(ended, context):
        return await answer(message, context)


async def _each(
    answer: Callable[..., AsyncIterator[Any]], ended: Callable[[str], None], message: Any, context: Context
) -> AsyncIterator[Any]:
    with _Counted(ended, context):
        async for reply in answer(message, context):
            yield reply
