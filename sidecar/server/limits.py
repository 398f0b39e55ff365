"""What one connection may do, as arguments of gRPC's C core (grpc/impl/channel_arg_names.h)."""

from __future__ import annotations

from sidecar.settings import ServerSettings

HANDSHAKE_SECONDS = 10.0
"""TLS and the beginning of HTTP/2 must be over by then, and so must a client that sends nothing."""

SILENCE_SECONDS = 60.0
"""A client from which nothing came for so long is asked whether it is there."""

ANSWER_SECONDS = 20.0
"""It has so long to answer before the connection is closed."""

IDLE_SECONDS = 3600.0
"""A connection without a call for so long is closed; its client makes another when it needs one."""

METADATA_BYTES = 16 * 1024
"""Most metadata of a call, as HTTP/2 counts it: with 32 bytes more for each entry."""

PING_STRIKES = 2
"""Pings that may come too early, before the connection is closed with ENHANCE_YOUR_CALM."""


def channel_arguments(settings: ServerSettings) -> list[tuple[str, int]]:
    """For a server that `settings` describe."""
    arguments = [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # Otherwise a second server on the same port starts in silence and takes half the traffic.
        ("grpc.so_reuseport", 0),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_concurrent_streams", settings.max_streams),
        # Beyond the first number calls are refused with a growing probability, were the second not the same.
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES),
        ("grpc.server_handshake_timeout_ms", _milliseconds(HANDSHAKE_SECONDS)),
        ("grpc.keepalive_time_ms", _milliseconds(SILENCE_SECONDS)),
        ("grpc.http2.ping_timeout_ms", _milliseconds(ANSWER_SECONDS)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(settings.min_ping_seconds)),
        ("grpc.http2.max_ping_strikes", PING_STRIKES),
        ("grpc.max_connection_idle_ms", _milliseconds(IDLE_SECONDS)),
    ]
    if settings.max_connection_seconds:
        arguments += [
            ("grpc.max_connection_age_ms", _milliseconds(settings.max_connection_seconds)),
            # Calls that have begun by then are not cut off before the server stops waiting for calls anyway.
            ("grpc.max_connection_age_grace_ms", _milliseconds(settings.grace_seconds)),
        ]
    return arguments


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
