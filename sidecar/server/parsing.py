"""Messages that cannot be parsed, for which grpc.aio blames itself, with a traceback in the log for each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from sidecar.errors import InvalidInputError
from sidecar.server import bounds
from sidecar.server.status import ErrorsAsStatus

Context = grpc.aio.ServicerContext[Any, Any]


def parse(method: str, deserialize: Callable[[bytes], Any], raw: bytes) -> Any:
    """The message to the method of that path. Raises InvalidInputError where `deserialize` raises DecodeError, and
    where it is not asked because of `bounds`.
    """
    bounds.check(method, raw)
    try:
        return deserialize(raw)
    except DecodeError as error:
        raise InvalidInputError("the message cannot be parsed") from error


class Parsing(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Has handlers of grpc.aio's server end such a call with INVALID_ARGUMENT.

    A handler of a stream meets the error when it reads; one with a single message would not be called at all.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        parsing = partial(parse, handler_call_details.method, handler.request_deserializer)
        if handler.unary_unary is None:
            return handler._replace(request_deserializer=parsing)
        return handler._replace(
            request_deserializer=None, unary_unary=partial(_answer, handler.unary_unary, parsing)
        )


async def _answer(
    handler: Callable[[Any, Context], Awaitable[Any]],
    parsing: Callable[[bytes], Any],
    raw: bytes,
    context: Context,
) -> Any:
    async with ErrorsAsStatus(context):
        message = parsing(raw)
    return await handler(message, context)
