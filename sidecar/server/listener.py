"""What stands at the port: our server on grpcio's private layer where it was tested, and grpc.aio's anywhere else."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from sidecar.server.counting import Counting, Ended, uncounted
from sidecar.server.parsing import Parsing
from sidecar.server.security import Authorise, Guard

_log = logging.getLogger("sidecar.server")

TESTED = ("1.85.",)
"""Beginnings of the grpcio versions that the tests passed with."""


def tested() -> bool:
    """Whether the installed grpcio is one whose private layer we know."""
    return grpc.__version__.startswith(TESTED)


def create(
    authorise: Authorise | None,
    options: Sequence[tuple[str, Any]],
    direct: Mapping[str, Any] | None = None,
    ended: Ended = uncounted,
) -> Any:
    """A server of the running event loop, that is used like grpc.aio's.

    authorise: asked about every call; None where everybody may call everything.
    direct: methods, by path, that our server need not bring to the loop; see `call.Direct`.
    ended: told of the end of every call.
    """
    if not tested():
        _log.info(
            "grpcio %s was not tested: its own server serves, at about half the speed", grpc.__version__
        )
        guards = [Guard(authorise)] if authorise else []
        return grpc.aio.server(interceptors=[Counting(ended), *guards, Parsing()], options=options)
    # Here, because another grpcio may lack what it imports.
    from sidecar.server.completion import CompletionServer

    return CompletionServer(authorise, options, direct or {}, ended)
