"""HTTP/2 by hand, for what no client library would send (RFC 9113; header fields as literals, RFC 7541, 6.2.2)."""

from __future__ import annotations

import asyncio
import struct
from contextlib import asynccontextmanager

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS = 1, 4

INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"


def frame(kind, payload=b"", *, flags=0, stream=0):
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS)


def headers(path, *more):
    """The header block of a gRPC call."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x")]
    fields += [("content-type", "application/grpc"), ("te", "trailers"), *more]
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in fields)


def message(content, *, compressed=False):
    """A gRPC message with its prefix."""
    return struct.pack(">BI", compressed, len(content)) + content


def call(path, content=b"", *more, stream=1, compressed=False):
    """All that a client sends of one call."""
    return frame(HEADERS, headers(path, *more), flags=END_HEADERS, stream=stream) + frame(
        DATA, message(content, compressed=compressed), flags=END_STREAM, stream=stream
    )


def _string(value):
    raw = value if isinstance(value, bytes) else value.encode()
    if len(raw) < 127:
        return bytes((len(raw),)) + raw
    left, length = len(raw) - 127, bytes((127,))
    while left >= 128:
        length += bytes((left % 128 + 128,))
        left //= 128
    return length + bytes((left,)) + raw


class Connection:
    """Bytes out, frames in: (kind, stream, payload)."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer

    async def send(self, *parts):
        """True while the server takes it."""
        try:
            self._writer.write(b"".join(parts))
            await self._writer.drain()
        except ConnectionError:
            return False
        return not self._writer.is_closing()

    async def frames(self, *, until=None):
        """Frames up to one of the kind `until`, or to the end of the connection. Raises TimeoutError after 5 s."""
        found = []
        try:
            while True:
                async with asyncio.timeout(5):
                    head = await self._reader.readexactly(9)
                    payload = await self._reader.readexactly(int.from_bytes(head[:3]))
                found.append((head[3], int.from_bytes(head[5:9]), payload))
                if head[3] == until:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        return found

    async def closed(self):
        """Wait until the server has closed the connection."""
        try:
            while await self._reader.read(65536):
                pass
        except ConnectionError:
            pass


@asynccontextmanager
async def connect(address):
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()
