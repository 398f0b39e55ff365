"""The HTTP port as a socket: TLS, client certificates, and clients that take their time."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from contextlib import suppress

import httpx
import pytest
from prometheus_client import CollectorRegistry

from sidecar.console.access import Access
from sidecar.console.http import Standing, application
from sidecar.console.server import HttpServer
from sidecar.export.exposition import Exposition
from sidecar.server import tls
from sidecar.settings import ServerSettings


@pytest.fixture
def http_port():
    """`http_port(**server_settings)` is the port of a started server, and its certificates where it has any."""
    started = []

    def start(**given):
        settings = ServerSettings(http_port=0, **given)
        found = tls.certificates(settings)
        app = application(
            Exposition(CollectorRegistry(), 0.0),
            Standing([]),
            Access(*[lambda _: True] * 3),
        )
        started.append(HttpServer(app, settings, found.context() if found else None))
        return started[-1].start(), found

    yield start
    for server in started:
        server.stop(5)


@pytest.fixture
def files(authority, tmp_path):
    settings = {"tls_certificate": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    for source, target in zip(authority.issue("console"), settings.values(), strict=True):
        shutil.copy(source, target)
    return settings


async def get(port, path, authority, client=None):
    context = ssl.create_default_context(cafile=authority.certificate)
    if client:
        context.load_cert_chain(*client)
    async with httpx.AsyncClient(verify=context, trust_env=False) as http:
        return await http.get(f"https://127.0.0.1:{port}{path}")


@pytest.mark.parametrize("path", ["/metrics", "/"])
async def test_with_a_client_authority_only_those_that_it_signed_may_look(http_port, files, authority, path):
    port, _ = http_port(**files, tls_client_ca=authority.certificate)
    assert (await get(port, path, authority)).status_code == 403
    assert (await get(port, path, authority, authority.issue("client"))).status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_probes_need_no_certificate(http_port, files, authority, path):
    port, _ = http_port(**files, tls_client_ca=authority.certificate)
    assert (await get(port, path, authority)).status_code == 200


async def test_a_certificate_of_another_authority_is_refused(http_port, files, authority, make_authority):
    port, _ = http_port(**files, tls_client_ca=authority.certificate)
    stranger = make_authority().issue("stranger")
    with pytest.raises(httpx.HTTPError):
        await get(port, "/livez", authority, stranger)


async def test_new_connections_see_the_new_certificate_and_the_new_authority(
    http_port, files, authority, make_authority
):
    accepted = files["tls_key"].with_name("clients.pem")
    shutil.copy(authority.certificate, accepted)
    port, certificates = http_port(**files, tls_client_ca=accepted)
    other = make_authority()
    for source, target in zip(other.issue("next"), files.values(), strict=True):
        shutil.copy(source, target)
    shutil.copy(other.certificate, accepted)
    certificates.refresh()
    with pytest.raises(httpx.HTTPError):
        await get(port, "/livez", authority)
    assert (await get(port, "/metrics", other, other.issue("client"))).status_code == 200
    with pytest.raises(httpx.HTTPError):
        await get(port, "/livez", other, authority.issue("client"))


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("sidecar.console.server.TURN_SECONDS", 0.3)


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\n", b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1"],
    ids=["nothing", "half a head", "half a body"],
)  # fmt: skip
async def test_whoever_does_not_finish_a_request_is_cut_off(http_port, impatient, sent):
    port, _ = http_port()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    async with asyncio.timeout(5):
        while await reader.read(4096):
            pass
    writer.transport.abort()


async def test_a_second_request_that_trickles_in_is_cut_off_like_the_first(http_port, impatient):
    port, _ = http_port()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"ok\n")
    writer.write(b"G")
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.transport.abort()


async def test_a_client_in_time_keeps_its_connection(http_port):
    port, _ = http_port()
    async with httpx.AsyncClient(trust_env=False) as http:
        for _ in range(3):
            assert (await http.get(f"http://127.0.0.1:{port}/livez")).status_code == 200


@pytest.mark.parametrize(
    "words",
    [b"\x00" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000],
    ids=["zeros", "HTTP/2", "a head without end"],
)
async def test_what_is_no_request_is_answered_once_and_cut_off(http_port, words):
    port, _ = http_port()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(words)
    async with asyncio.timeout(5):
        with suppress(ConnectionResetError):
            assert b"400 Bad Request" in await reader.read()
    writer.transport.abort()
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"http://127.0.0.1:{port}/livez")).status_code == 200


async def test_nothing_tells_what_software_answers(http_port):
    port, _ = http_port()
    async with httpx.AsyncClient(trust_env=False) as http:
        assert "server" not in (await http.get(f"http://127.0.0.1:{port}/livez")).headers
