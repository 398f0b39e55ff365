"""`[server]`: ports, limits, and who may call."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator, model_validator

from sidecar.settings.section import Port, Seconds, Section

HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,253}$")]
SharedMemoryKey = Annotated[str, Field(pattern=r"^/?[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}$")]


class ServerSettings(Section):
    """Addresses and limits of the ports, and who may call.

    grpc_host: address of the inference service, or `unix:/path` for a socket of that path.
    grpc_port: its port; 0 takes any free one.
    http_host: address of metrics, health and status.
    http_port: its port; 0 takes any free one.
    http_names: further names, without a port, by which the HTTP port may be asked for while it is on loopback and
        neither a token nor TLS guards it; such as that of a proxy which passes the header `host` on.
    admin_listen: `host:port` or `unix:/path` where admin calls are taken, which grpc_port then refuses; needs admin.
    insecure: allow addresses beyond loopback without TLS and a token, because something else guards them.
    tls_certificate: PEM file; with tls_key all ports speak TLS only. Read again when it changes, like every file here.
    tls_key: PEM file.
    tls_client_ca: PEM file; clients must then have a certificate that one of its authorities signed.
    token: the bearer token that every call must carry; best set as `SIDECAR_SERVER__TOKEN`.
    token_file: file of bearer tokens, one a line; each of them is good, so that two are while one replaces the other.
    admin_token_file: the same for admin calls and for kept inputs, which the tokens above then do not admit to; it
        admits to all others.
    reflection: let clients ask the gRPC port what services it has.
    max_message_bytes: largest request and reply; larger ones are refused before they are read whole.
    max_connections: most connections to one gRPC port; more are closed at once.
    max_streams: most calls at a time over one connection. A client keeps further ones to itself, and at the limit may
        still see one refused as UNAVAILABLE: better to be above what queues hold.
    max_connection_seconds: how long a connection may last before its client is asked to make a new one, so that
        clients spread over new servers; 0: for ever.
    min_ping_seconds: how often a client may send keepalive pings; whoever does more is cut off.
    grace_seconds: how long requests in flight may take to finish when the server stops.
    shutdown_delay_seconds: how long after SIGTERM requests are still taken while readiness is false already: the time
        in which those who send them look at readiness.
    admin: let clients load and unload versions, register shared memory, and ask to change settings.
    shared_memory: keys of the system shared memory that clients may register; needs admin.
    """

    grpc_host: str = "127.0.0.1"
    grpc_port: Port = 8001
    http_host: str = "127.0.0.1"
    http_port: Port = 8002
    http_names: tuple[HostName, ...] = ()
    admin_listen: Annotated[str, Field(pattern=r"^(unix:.+|.+:\d{1,5})$")] | None = None
    insecure: bool = False
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    token: SecretStr | None = None
    token_file: Path | None = None
    admin_token_file: Path | None = None
    reflection: bool = False
    max_message_bytes: Annotated[int, Field(ge=1024, le=2**31 - 1)] = 64 * 2**20
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    max_streams: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    max_connection_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    min_ping_seconds: Annotated[float, Field(ge=0.1, le=86_400)] = 10.0
    grace_seconds: Seconds = 10.0
    shutdown_delay_seconds: Annotated[float, Field(ge=0, le=3_600)] = 1.0
    admin: bool = False
    shared_memory: tuple[SharedMemoryKey, ...] = ()

    @property
    def admin_host(self) -> str | None:
        """The address of `admin_listen` without its port."""
        listen = self.admin_listen
        if listen is None or listen.startswith("unix:"):
            return listen
        return listen.rpartition(":")[0].strip("[]")

    @field_validator("token")
    @classmethod
    def _says_something(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not token.get_secret_value().strip():
            raise ValueError("must not be empty")
        return token

    @model_validator(mode="after")
    def _closed_to_strangers(self) -> ServerSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key must be given together")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError(
                "tls_client_ca needs tls_certificate and tls_key: without TLS nobody shows a certificate"
            )
        if self.token and self.token_file:
            raise ValueError("give token or token_file, not both")
        if self.shared_memory and not self.admin:
            raise ValueError("shared_memory can only be registered by admin calls: set admin = true")
        if self.admin_listen and not self.admin:
            raise ValueError("admin_listen is where admin calls are taken: set admin = true")
        exposed = [
            host
            for host in (self.grpc_host, self.http_host, self.admin_host)
            if host is not None and not is_local(host)
        ]
        guarded = self.tls_certificate is not None and (self.token or self.token_file)
        if exposed and not guarded and not self.insecure:
            raise ValueError(
                f"{exposed[0]} is reachable from other machines: set tls_certificate, tls_key and "
                "token_file or token, or insecure = true if something else guards the port"
            )
        return self


def is_local(host: str) -> bool:
    """Reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.startswith("unix:")
