"""What stands at the port: our server on grpcio's private layer where it was tested, and grpc.aio's anywhere else."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import grpc

_log = logging.getLogger("sidecar.server")

TESTED = ("1.85.",)
"""Beginnings of the grpcio versions that the tests passed with."""


def tested() -> bool:
    """Whether the installed grpcio is one whose private layer we know."""
    return grpc.__version__.startswith(TESTED)


def create(
    interceptors: Sequence[grpc.aio.ServerInterceptor[Any, Any]], options: Sequence[tuple[str, Any]]
) -> Any:
    """A server of the running event loop, that is used like grpc.aio's."""
    if not tested():
        _log.info(
            "grpcio %s was not tested: its own server serves, at about half the speed", grpc.__version__
        )
        return grpc.aio.server(interceptors=interceptors, options=options)
    # Here, because another grpcio may lack what it imports.
    from sidecar.server.completion import CompletionServer

    return CompletionServer(interceptors, options)
