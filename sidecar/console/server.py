"""The HTTP server on a thread of its own."""

from __future__ import annotations

import socket
import threading

import uvicorn
from starlette.applications import Starlette

from sidecar.errors import ConfigError
from sidecar.settings import ServerSettings


class HttpServer:
    """uvicorn on a thread and an event loop of its own, so that a scrape never stands in a request's way."""

    def __init__(self, app: Starlette, settings: ServerSettings) -> None:
        self._settings = settings
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                lifespan="off",
                ssl_certfile=settings.tls_certificate,
                ssl_keyfile=settings.tls_key,
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
