"""ModelStreamInfer: many inferences over one call, run together and answered in the order they came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from sidecar._pb import open_inference_pb2 as pb
from sidecar.errors import NotReadyError
from sidecar.server.status import Metadata, log_failure, text_of

Context = grpc.aio.ServicerContext[Any, Any]
Infer = Callable[[pb.ModelInferRequest, Context], Awaitable[pb.ModelInferResponse]]

IN_FLIGHT = 64
"""Requests of one stream that may wait at once. The next is read from the network when one is answered."""

FINAL = "triton_final_response"
"""Parameter of a reply by which a client of a decoupled model learns that its request gets no more."""


class Streams:
    """All open streams; `infer` answers one request."""

    def __init__(self, infer: Infer) -> None:
        self._infer = infer
        self._readers: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Read nothing more; what was read is answered, and then the streams end."""
        for reader in self._readers:
            reader.cancel()

    async def answer(self, messages: AsyncIterator[pb.ModelInferRequest], context: Context) -> None:
        """Write one reply to each message, failed or not. Raises NotReadyError if `close` ended the stream."""
        turns: asyncio.Queue[_Turn | None] = asyncio.Queue()
        room = asyncio.Semaphore(IN_FLIGHT)
        reader = asyncio.create_task(self._read(messages, context, turns, room))
        self._readers.add(reader)
        turn: _Turn | None = None
        try:
            while turn := await turns.get():
                await asyncio.wait([turn.reply])
                await context.write(turn.message(context.invocation_metadata() or ()))
                room.release()
        finally:
            self._readers.discard(reader)
            reader.cancel()
            unanswered = [turn, *(turns.get_nowait() for _ in range(turns.qsize()))]
            for left in unanswered:
                if left is not None:
                    left.reply.cancel()
        if reader.cancelled():
            raise NotReadyError("the server is stopping; requests of this stream without a reply did not run")
        await reader

    async def _read(
        self,
        messages: AsyncIterator[pb.ModelInferRequest],
        context: Context,
        turns: asyncio.Queue[_Turn | None],
        room: asyncio.Semaphore,
    ) -> None:
        try:
            await room.acquire()
            async for message in messages:
                reply = asyncio.ensure_future(self._infer(message, context))
                turns.put_nowait(_Turn(message, reply))
                await room.acquire()
        finally:
            turns.put_nowait(None)


class _Turn:
    """A request of a stream and its reply to come."""

    __slots__ = ("_id", "_model", "_version", "reply")

    def __init__(self, message: pb.ModelInferRequest, reply: asyncio.Future[pb.ModelInferResponse]) -> None:
        self._id, self._model, self._version = message.id, message.model_name, message.model_version
        self.reply = reply

    def message(self, metadata: Metadata) -> pb.ModelStreamInferResponse:
        """The reply, or the error, which is logged; `metadata` is the stream's."""
        error = self.reply.exception()
        if error is None:
            response = self.reply.result()
            response.parameters[FINAL].bool_param = True
            return pb.ModelStreamInferResponse(infer_response=response)
        named = pb.ModelInferResponse(id=self._id, model_name=self._model, model_version=self._version)
        named.parameters[FINAL].bool_param = True
        log_failure(error, metadata, named)
        return pb.ModelStreamInferResponse(error_message=text_of(error), infer_response=named)
