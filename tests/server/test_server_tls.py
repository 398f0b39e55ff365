"""TLS and mutual TLS on a real port, and certificates that change while it is used."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import threading

import grpc
import numpy as np
import pytest
import tritonclient.grpc

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from sidecar.errors import ConfigError
from sidecar.server import tls
from sidecar.server.files import FromFiles
from sidecar.settings import ServerSettings


@pytest.fixture
def files(authority, tmp_path):
    """Settings of a certificate whose files may be replaced, by `replace(name)`, with a new one."""

    def replace(name, issuer=authority):
        for source, setting in zip(issuer.issue(name), ("tls_certificate", "tls_key"), strict=True):
            shutil.copy(source, settings[setting].with_suffix(".new"))
            settings[setting].with_suffix(".new").rename(settings[setting])

    settings = {"tls_certificate": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    replace("first")
    return settings, replace


async def name_of_the_server(address, client=None):
    """The common name in the certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if client:
        context.load_cert_chain(*client)
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    shown = ssl.DER_cert_to_PEM_cert(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    writer.transport.abort()
    return shown


def trusting(authority, client=None):
    certificate, key = (path.read_bytes() for path in client) if client else (None, None)
    return grpc.ssl_channel_credentials(authority.certificate.read_bytes(), key, certificate)


async def is_live(address, credentials):
    async with grpc.aio.secure_channel(address, credentials) as channel:
        reply = await GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=5)
        return reply.live


async def test_with_a_client_authority_a_client_that_it_signed_gets_in(serve, files, authority):
    settings, _ = files
    async with serve(**settings, tls_client_ca=authority.certificate) as address:
        assert await is_live(address, trusting(authority, authority.issue("client")))


@pytest.mark.parametrize("stranger", ["without a certificate", "of another authority"])
async def test_with_a_client_authority_nobody_else_gets_in(serve, files, authority, make_authority, stranger):
    settings, _ = files
    client = make_authority().issue("client") if stranger == "of another authority" else None
    async with serve(**settings, tls_client_ca=authority.certificate) as address:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await is_live(address, trusting(authority, client))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_tritons_client_infers_over_mutual_tls_with_a_token(
    serve, files, authority, model, make_servable, fp32_spec, token_file
):
    settings, _ = files
    certificate, key = authority.issue("client")
    given = np.array([[1, 2, 3]], np.float32)
    tensor = tritonclient.grpc.InferInput("fp32", [1, 3], "FP32")
    tensor.set_data_from_numpy(given)

    def infer(address):
        with tritonclient.grpc.InferenceServerClient(
            address,
            ssl=True,
            root_certificates=str(authority.certificate),
            private_key=str(key),
            certificate_chain=str(certificate),
        ) as client:
            reply = client.infer("echo", [tensor], headers={"authorization": "Bearer s3cret"})
            return reply.as_numpy("fp32")

    served = make_servable(model.execute, [fp32_spec])
    async with serve(
        served, **settings, tls_client_ca=authority.certificate, token_file=token_file
    ) as address:
        assert np.array_equal(await asyncio.to_thread(infer, address), given)


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr("sidecar.server.server.REFRESH_SECONDS", 0.01)


async def until(condition):
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_a_certificate_that_is_replaced_under_traffic_costs_no_request(
    serve, files, authority, model, make_servable, fp32_spec, often
):
    """Four clients, each with a connection of its own for every tenth of its requests."""
    settings, replace = files
    message = pb.ModelInferRequest(model_name="echo")
    message.inputs.add(name="fp32", datatype="FP32", shape=[1, 3])
    message.raw_input_contents.append(bytes(12))
    answered, over = 0, threading.Event()

    async def client(address):
        nonlocal answered
        while not over.is_set():
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.secure_channel(address, trusting(authority), options) as channel:
                for _ in range(10):
                    await GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=10)
                    answered += 1

    async with serve(make_servable(model.execute, [fp32_spec]), **settings) as address:
        clients = [asyncio.create_task(client(address)) for _ in range(4)]
        for name in ("second", "third", "fourth"):
            replace(name)
            expected = settings["tls_certificate"].read_text()

            async def shown(expected=expected):
                return await name_of_the_server(address) in expected

            await until(shown)
            seen = answered

            async def more(seen=seen):
                return answered > seen + 40

            await until(more)
        over.set()
        await asyncio.gather(*clients)
    assert answered > 120


async def test_a_new_client_authority_takes_the_place_of_the_old(
    serve, files, authority, make_authority, tmp_path, often
):
    settings, _ = files
    accepted = tmp_path / "clients.pem"
    shutil.copy(authority.certificate, accepted)
    old, other = authority.issue("client"), make_authority()
    new = other.issue("client")
    async with serve(**settings, tls_client_ca=accepted) as address:
        assert await is_live(address, trusting(authority, old))
        shutil.copy(other.certificate, accepted)

        async def let_in():
            try:
                return await is_live(address, trusting(authority, new))
            except grpc.aio.AioRpcError:
                return False

        await until(let_in)
        with pytest.raises(grpc.aio.AioRpcError):
            await is_live(address, trusting(authority, old))


@pytest.mark.parametrize("content", ["", "no certificate", None])
def test_a_new_certificate_of_no_use_leaves_the_old_one_and_is_told_once(files, caplog, content):
    settings, replace = files
    found = tls.certificates(ServerSettings(**settings))
    good = found.value
    if content is None:
        settings["tls_certificate"].unlink()
    else:
        settings["tls_certificate"].write_text(content)
    for _ in range(3):
        found.refresh()
    assert found.value is good
    assert "tls_certificate" in found.problem
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "what was read before stays in use" in caplog.text
    replace("mended")
    found.refresh()
    assert found.value is not good
    assert found.problem == ""


def test_a_certificate_whose_key_is_still_the_old_one_waits_for_its_key(files, authority):
    settings, _ = files
    found = tls.certificates(ServerSettings(**settings))
    good = found.value
    certificate, key = authority.issue("next")
    shutil.copy(certificate, settings["tls_certificate"])
    found.refresh()
    assert found.value is good
    assert "are no PEM pair" in found.problem
    shutil.copy(key, settings["tls_key"])
    found.refresh()
    assert found.value is not good
    assert found.problem == ""


def test_files_that_change_while_they_are_read_are_read_again(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    writes = iter(["newest"])

    def make(content):
        if content == b"new":
            file.write_text(next(writes))
        return content

    found = FromFiles({"file": file}, make)
    file.write_text("new")
    found.refresh()
    assert found.value == b"old"
    found.refresh()
    assert found.value == b"newest"


def test_files_that_are_as_they_were_make_nothing_new(files):
    settings, _ = files
    found = tls.certificates(ServerSettings(**settings))
    good = found.value
    settings["tls_key"].write_bytes(settings["tls_key"].read_bytes())
    found.refresh()
    assert found.value is good


def test_a_client_authority_without_a_certificate_is_a_config_error(files, tmp_path):
    settings, _ = files
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(ConfigError, match=r"server.tls_client_ca has no PEM certificate"):
        tls.certificates(ServerSettings(**settings, tls_client_ca=empty))


def test_a_key_with_a_password_is_a_config_error_and_nobody_is_asked_for_it(files):
    settings, _ = files
    subprocess.run(
        ["openssl", "ec", "-in", settings["tls_key"], "-aes256", "-passout", "pass:x", "-out", settings["tls_key"]],
        check=True,
        capture_output=True,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="are no PEM pair"):
        tls.certificates(ServerSettings(**settings))
