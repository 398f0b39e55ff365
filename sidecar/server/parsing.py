"""What is no message of the method, on grpc.aio: it would tell the client of our inside, and fill the log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from sidecar.server.status import code_of, text_of

Context = grpc.aio.ServicerContext[Any, Any]


class Parsing(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Parses messages in the handler, where an error can become a status."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        # The messages of a stream are parsed in its handler's own loop.
        if handler is None or handler.request_streaming or handler.request_deserializer is None:
            return handler
        answer = handler.unary_stream or handler.unary_unary

        async def parsed(raw: bytes, context: Context) -> Any:
            try:
                message = handler.request_deserializer(raw)
            except DecodeError as error:
                await context.abort(code_of(error), text_of(error))
            return await answer(message, context)

        made = (
            grpc.unary_stream_rpc_method_handler
            if handler.unary_stream
            else grpc.unary_unary_rpc_method_handler
        )
        return made(parsed, None, handler.response_serializer)
