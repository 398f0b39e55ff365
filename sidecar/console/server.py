"""The HTTP server on a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from sidecar.errors import ConfigError
from sidecar.settings import ServerSettings

TURN_SECONDS = 10.0
"""From the start of a connection, or its last reply, to the end of the next reply: an honest client needs less."""


class HttpServer:
    """uvicorn on a thread and an event loop of its own, so that a scrape never stands in a request's way.

    context: TLS of new connections, None for none.
    """

    def __init__(self, app: Starlette, settings: ServerSettings, context: ssl.SSLContext | None) -> None:
        self._settings = settings
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                ssl_context_factory=None if context is None else lambda *_: context,
            )
        )
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Listen, and return the port. Raises ConfigError when the address cannot be bound."""
        host, port = self._settings.http_host, self._settings.http_port
        try:
            listener = socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
            )
        except OSError as error:
            raise ConfigError(f"server.http_host and http_port: cannot listen on {host}:{port}") from error
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="sidecar-http", daemon=True
        )
        self._thread.start()
        return int(listener.getsockname()[1])

    def stop(self, timeout: float) -> None:
        self._server.should_exit = True
        if self._thread:
            self._thread.join(timeout)


class Connection(H11Protocol):
    """uvicorn's, which alone would wait for ever: for a request to be whole, or for a reply to be taken."""

    _turn: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if secured := transport.get_extra_info("ssl_object"):
            certified = secured.context.verify_mode is ssl.CERT_NONE or bool(secured.getpeercert())
            self.app_state = {**self.app_state, "certified": certified}
        self._next_turn()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._next_turn()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_turn()
        super().connection_lost(exc)

    def _next_turn(self) -> None:
        self._end_turn()
        # Not closed: that would first wait for what the client does not take.
        self._turn = self.loop.call_later(TURN_SECONDS, self.transport.abort)

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
