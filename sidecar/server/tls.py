"""TLS of all ports, from files that may change while connections are made."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from sidecar.errors import ConfigError
from sidecar.server.files import FromFiles
from sidecar.settings import ServerSettings


class Identity(NamedTuple):
    """One certificate with its key, and who may connect, for either kind of server."""

    context: ssl.SSLContext
    configuration: Any


class Certificates(FromFiles[Identity]):
    """The certificate of `tls_certificate`, `tls_key` and, where clients need one, `tls_client_ca`.

    Raises ConfigError where a file cannot be read, or certificate and key are no pair.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._paths = certificate, key
        self._mutual = client_ca is not None
        files = {"tls_certificate": certificate, "tls_key": key}
        super().__init__(files | ({"tls_client_ca": client_ca} if client_ca else {}), self._identity)

    def _identity(self, certificate: bytes, key: bytes, client_ca: bytes | None = None) -> Identity:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # Only files can be loaded. `refresh` sees to it that they are what was read; a password is not asked for.
            context.load_cert_chain(*self._paths, password="")
        except (ssl.SSLError, OSError) as error:
            raise ConfigError("server.tls_certificate and tls_key are no PEM pair") from error
        if client_ca is not None:
            try:
                context.load_verify_locations(cadata=client_ca.decode("ascii"))
            except (ssl.SSLError, UnicodeDecodeError) as error:
                raise ConfigError("server.tls_client_ca has no PEM certificate") from error
            # Probes have no certificate; the application asks whether anybody else has.
            context.verify_mode = ssl.CERT_OPTIONAL
        return Identity(context, grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca))

    def credentials(self) -> grpc.ServerCredentials:
        """For one gRPC port; each handshake is done with what is the newest then."""
        given = self.value

        def newer() -> Any:
            nonlocal given
            if given is self.value:
                return None
            given = self.value
            return given.configuration

        return grpc.dynamic_ssl_server_credentials(given.configuration, newer, self._mutual)

    def context(self) -> ssl.SSLContext:
        """For the HTTP port, in the same way."""
        return _Newest(self)


class _Newest(ssl.SSLContext):
    """Gives every connection the context that is the newest: one that is in use cannot forget an authority."""

    _certificates: Certificates

    def __new__(cls, certificates: Certificates) -> _Newest:
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        self._certificates = certificates
        return self

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        return self._certificates.value.context.wrap_bio(*arguments, **named)


def certificates(settings: ServerSettings) -> Certificates | None:
    """Those of the settings, None where they name none. Raises ConfigError."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Certificates(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
