"""ModelStreamInfer: many inferences over one call.

Requests with one reply run together and are answered in the order they came. Those of decoupled models are answered
beside them, each reply when it is made: who waits for a long one waits for no other.
"""

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

Write = Callable[[pb.ModelInferResponse, bool], Awaitable[None]]
"""Writes a reply, of which it is told whether it is the last to its request."""

Generate = Callable[[pb.ModelInferRequest, Context, Write], Awaitable[None]]
"""Writes all replies to a request of a decoupled model."""

IN_FLIGHT = 64
"""Requests of one stream that may wait at once. The next is read from the network when one is answered."""

_OVER = (asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.InternalError)
"""What both servers raise for a message to a call that has ended, if they are asked before they cancel its handler."""

FINAL = "triton_final_response"
"""Parameter of a reply by which a client of a decoupled model learns that its request gets no more."""


class Streams:
    """All open streams. decoupled: whether a request is for `generate`; `infer` answers all others."""

    def __init__(
        self, infer: Infer, generate: Generate, decoupled: Callable[[pb.ModelInferRequest], bool]
    ) -> None:
        self.infer = infer
        self.generate = generate
        self.decoupled = decoupled
        self._readers: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Read nothing more; what was read is answered, and then the streams end."""
        for reader in self._readers:
            reader.cancel()

    async def answer(self, messages: AsyncIterator[pb.ModelInferRequest], context: Context) -> None:
        """Write all replies to each message, failed or not. Raises NotReadyError if `close` ended the stream."""
        stream = _Stream(self, context)
        reader = asyncio.create_task(stream.read(messages))
        self._readers.add(reader)
        try:
            await stream.write_all()
        finally:
            self._readers.discard(reader)
            reader.cancel()
            stream.cancel()
        if reader.cancelled():
            raise NotReadyError("the server is stopping; requests of this stream without a reply did not run")
        await reader


class _Stream:
    """One of them: requests that were read and not yet answered."""

    def __init__(self, streams: Streams, context: Context) -> None:
        self._streams = streams
        self._context = context
        self._turns: asyncio.Queue[_Turn | None] = asyncio.Queue()
        self._turn: _Turn | None = None
        self._beside: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(IN_FLIGHT)
        # gRPC takes one message at a time.
        self._writing = asyncio.Lock()

    async def read(self, messages: AsyncIterator[pb.ModelInferRequest]) -> None:
        try:
            await self._room.acquire()
            async for message in messages:
                if self._streams.decoupled(message):
                    replies = asyncio.create_task(self._generate(message))
                    self._beside.add(replies)
                    replies.add_done_callback(self._beside.discard)
                else:
                    reply = asyncio.ensure_future(self._streams.infer(message, self._context))
                    self._turns.put_nowait(_Turn(message, reply))
                await self._room.acquire()
        finally:
            self._turns.put_nowait(None)

    async def write_all(self) -> None:
        """Until everything that was read is answered, and no more is."""
        while turn := await self._turns.get():
            self._turn = turn
            await asyncio.wait([turn.reply])
            error = turn.reply.exception()
            if error is None:
                await self._write(turn.reply.result(), last=True)
            else:
                await self._write_failure(turn, error)
            self._room.release()
        if self._beside:
            await asyncio.wait(self._beside)

    def cancel(self) -> None:
        """Nobody wants what is still to come."""
        unanswered = [self._turn, *(self._turns.get_nowait() for _ in range(self._turns.qsize()))]
        for left in unanswered:
            if left is not None:
                left.reply.cancel()
        for replies in self._beside:
            replies.cancel()

    async def _generate(self, message: pb.ModelInferRequest) -> None:
        turn = _Turn(
            message, asyncio.ensure_future(self._streams.generate(message, self._context, self._write))
        )
        try:
            await asyncio.wait([turn.reply])
            if error := turn.reply.exception():
                await self._write_failure(turn, error)
        finally:
            turn.reply.cancel()
            self._room.release()

    async def _write(self, response: pb.ModelInferResponse, last: bool) -> None:
        response.parameters[FINAL].bool_param = last
        await self._send(pb.ModelStreamInferResponse(infer_response=response))

    async def _write_failure(self, turn: _Turn, error: BaseException) -> None:
        await self._send(turn.failed(error, self._context.invocation_metadata() or ()))

    async def _send(self, message: pb.ModelStreamInferResponse) -> None:
        async with self._writing:
            try:
                await self._context.write(message)
            except _OVER as error:
                raise asyncio.CancelledError from error


class _Turn:
    """A request of a stream and what becomes of it."""

    __slots__ = ("_id", "_model", "_version", "reply")

    def __init__(self, message: pb.ModelInferRequest, reply: asyncio.Future[Any]) -> None:
        self._id, self._model, self._version = message.id, message.model_name, message.model_version
        self.reply = reply

    def failed(self, error: BaseException, metadata: Metadata) -> pb.ModelStreamInferResponse:
        """The error, which is logged; `metadata` is the stream's."""
        named = pb.ModelInferResponse(id=self._id, model_name=self._model, model_version=self._version)
        named.parameters[FINAL].bool_param = True
        log_failure(error, metadata, named)
        return pb.ModelStreamInferResponse(error_message=text_of(error), infer_response=named)
