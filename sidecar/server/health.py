"""The standard health service (grpc.health.v1), whose watchers cannot keep the server from stopping.

grpcio's own goes on watching until the client gives up, and waits for one that reads nothing before it tells the rest.
"""

# ruff: noqa: N802 - gRPC finds the methods by the protocol's own names.

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
Response = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # untyped
    """Answers for the services that `set` has named; lives on one event loop."""

    def __init__(self) -> None:
        self._status: dict[str, int] = {}
        self._leaving = self._closed = False
        self._changed = asyncio.Event()

    async def Check(
        self, message: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        if message.service not in self._status:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return Response(status=self._status[message.service])

    async def Watch(self, message: health_pb2.HealthCheckRequest, context: Context) -> None:
        told: int | None = None
        while True:
            changed = self._changed
            status = self._status.get(message.service, Response.SERVICE_UNKNOWN)
            if status != told:
                await context.write(Response(status=status))
                told = status
            elif self._closed:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            else:
                await changed.wait()

    async def set(self, service: str, status: int) -> None:
        """Tell those who watch; without effect once the server leaves."""
        if not self._leaving:
            self._status[service] = status
            self._tell()

    async def enter_graceful_shutdown(self) -> None:
        """Everything is NOT_SERVING from now on."""
        self._leaving = True
        self._status = dict.fromkeys(self._status, Response.NOT_SERVING)
        self._tell()

    def close(self) -> None:
        """End every watch when it has been told the last status."""
        self._closed = True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
