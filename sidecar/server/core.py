"""How gRPC's C core is set up: by the environment, which it reads when it is imported."""

from __future__ import annotations

from collections.abc import MutableMapping

ENVIRONMENT = {
    # The core would write lines of its own into the log, of which clients can cause as many as they like.
    "GRPC_VERBOSITY": "NONE",
    # The thread that waits for events then reads the sockets too. By default others do, and wake it for each message,
    # which costs a tenth of a request at 32 in flight and a fifth at one.
    "GRPC_EXPERIMENTS": "-event_engine_listener",
}


def set_up(environment: MutableMapping[str, str]) -> None:
    """Put into the process's `environment` what is not there; to be called before anything imports grpc."""
    for name, value in ENVIRONMENT.items():
        environment.setdefault(name, value)
