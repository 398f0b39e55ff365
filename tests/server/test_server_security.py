"""Tokens and TLS on a real port."""

from __future__ import annotations

import socket
import stat

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import assume, given
from hypothesis import strategies as st

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb import telemetry_pb2
from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from sidecar.errors import ConfigError, ForbiddenError, UnauthenticatedError
from sidecar.server import tls
from sidecar.server.security import ADMIN_METHODS, SHOWS_INPUTS, Access, Role, Tokens
from sidecar.settings import ServerSettings


async def server_metadata(address, *metadata):
    async with grpc.aio.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        return await stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=metadata)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_the_right_token_is_let_through(serve, token_file, scheme):
    async with serve(token_file=token_file) as address:
        reply = await server_metadata(address, ("authorization", f"{scheme} s3cret"))
    assert reply.name == "activation-sidecar"


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "Bearer wrong")],
        [("authorization", "Bearer s3cret2")],
        [("authorization", "s3cret")],
        [("authorization", "Basic s3cret")],
        [("authorization", "Bearer ")],
        [("token", "Bearer s3cret")],
    ],
)
async def test_anything_else_is_unauthenticated_and_told_what_is_missing(serve, token_file, metadata):
    async with serve(token_file=token_file) as address:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await server_metadata(address, *metadata)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "authorization: Bearer <token>" in refused.value.details()
    assert "s3cret" not in refused.value.details()


async def test_a_stranger_learns_nothing_of_the_models(serve, model, make_servable, fp32_spec, token_file):
    async with (
        serve(make_servable(model.execute, [fp32_spec]), token_file=token_file) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        for call in (
            stub.ModelInfer(pb.ModelInferRequest(model_name="nope")),
            stub.ModelMetadata(pb.ModelMetadataRequest(name="nope")),
            stub.ServerLive(pb.ServerLiveRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "echo" not in refused.value.details()


async def test_health_needs_no_token(serve, token_file):
    async with serve(token_file=token_file) as address, grpc.aio.insecure_channel(address) as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("content", ["", " \n"])
def test_an_empty_token_file_is_a_config_error(tmp_path, content):
    path = tmp_path / "empty"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"server.token_file is empty, must hold the token"):
        Tokens(ServerSettings(token_file=path))


def test_a_missing_token_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"server.token_file .*gone cannot be read: No such file"):
        Tokens(ServerSettings(token_file=tmp_path / "gone"))


@pytest.mark.parametrize("missing", ["tls_certificate", "tls_key"])
def test_a_missing_certificate_or_key_is_a_config_error(tmp_path, missing):
    there = tmp_path / "there"
    there.write_text("x")
    files = {"tls_certificate": there, "tls_key": there, missing: tmp_path / "gone"}
    with pytest.raises(ConfigError, match=f"server.{missing} .*gone cannot be read"):
        tls.certificates(ServerSettings(**files))


@pytest.mark.parametrize("token", ["old", "new"])
async def test_every_line_of_the_file_is_a_token(serve, token_file, token):
    token_file.write_text("old\n\n  new \n")
    async with serve(token_file=token_file) as address:
        assert await server_metadata(address, ("authorization", f"Bearer {token}"))


async def test_a_token_of_the_settings_is_let_through_and_shown_nowhere(serve):
    async with serve(token="s3cret") as address:
        assert await server_metadata(address, ("authorization", "Bearer s3cret"))
        with pytest.raises(grpc.aio.AioRpcError):
            await server_metadata(address)
    assert "s3cret" not in repr(ServerSettings(token="s3cret"))


async def test_two_tokens_in_one_call_are_none(serve, token_file):
    async with serve(token_file=token_file) as address:
        given = ("authorization", "Bearer s3cret")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await server_metadata(address, given, given)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_token_is_taken_back_when_its_line_is_gone(token_file):
    tokens = Tokens(ServerSettings(token_file=token_file))
    token_file.write_text("s3cret\nnext\n")
    tokens.files[0].refresh()
    assert tokens.role("Bearer s3cret") is tokens.role("Bearer next") is Role.ADMIN
    token_file.write_text("next\n")
    tokens.files[0].refresh()
    assert tokens.role("Bearer s3cret") is Role.NOBODY


@pytest.mark.parametrize("content", ["", None])
def test_a_token_file_that_is_emptied_or_gone_lets_nobody_new_in(token_file, content, caplog):
    tokens = Tokens(ServerSettings(token_file=token_file))
    token_file.unlink() if content is None else token_file.write_text(content)
    tokens.files[0].refresh()
    assert tokens.role(None) is tokens.role("Bearer ") is Role.NOBODY
    assert tokens.role("Bearer s3cret") is Role.ADMIN
    assert "server.token_file" in tokens.files[0].problem
    assert "s3cret" not in caplog.text


ADMIN_CALL = "/inference.GRPCInferenceService/RepositoryModelUnload"
CLIENT_CALL = "/inference.GRPCInferenceService/ModelInfer"
HEALTH_CALL = "/grpc.health.v1.Health/Check"
DRIFT_CALL = "/sidecar.v1.ActivationTelemetry/GetDrift"


@pytest.mark.parametrize(
    ("given", "client_call", "admin_call"),
    [
        (None, UnauthenticatedError, UnauthenticatedError),
        ("Bearer wrong", UnauthenticatedError, UnauthenticatedError),
        ("Bearer s3cret", None, ForbiddenError),
        ("Bearer operator", None, None),
    ],
)
def test_an_admin_token_sets_admin_calls_apart(token_file, tmp_path, given, client_call, admin_call):
    admins = tmp_path / "admins"
    admins.write_text("operator\n")
    tokens = Tokens(ServerSettings(token_file=token_file, admin_token_file=admins))
    access = Access(tokens, takes_admin=True, elsewhere=False)
    metadata = [("authorization", given)] if given else []
    for method, expected in ((CLIENT_CALL, client_call), (ADMIN_CALL, admin_call), (HEALTH_CALL, None)):
        refusal = access.authorise(method, metadata)
        assert (refusal and type(refusal)) is expected


def test_kept_inputs_are_shown_to_admins_alone_and_without_admin_calls_too(token_file, tmp_path):
    admins = tmp_path / "admins"
    admins.write_text("operator\n")
    access = Access(
        Tokens(ServerSettings(token_file=token_file, admin_token_file=admins)),
        takes_admin=False,
        elsewhere=False,
    )
    client, admin = [("authorization", "Bearer s3cret")], [("authorization", "Bearer operator")]
    assert isinstance(access.authorise(SHOWS_INPUTS, client), ForbiddenError)
    assert access.authorise(DRIFT_CALL, client) is None
    assert access.authorise(SHOWS_INPUTS, admin) is None


def test_any_token_shows_kept_inputs_where_no_other_is_an_admins(token_file):
    access = Access(Tokens(ServerSettings(token_file=token_file)), takes_admin=False, elsewhere=False)
    assert access.authorise(SHOWS_INPUTS, [("authorization", "Bearer s3cret")]) is None


def test_the_call_that_shows_inputs_is_one_of_the_service():
    service = telemetry_pb2.DESCRIPTOR.services_by_name["ActivationTelemetry"]
    assert SHOWS_INPUTS.rpartition("/")[2] in service.methods_by_name
    assert SHOWS_INPUTS.split("/")[1] == service.full_name


@pytest.mark.parametrize("method", sorted(ADMIN_METHODS))
def test_admin_methods_are_methods_of_the_service(method):
    known = {found.name for found in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}
    assert method.rpartition("/")[2] in known


@given(given=st.text() | st.binary(), secret=st.text(min_size=1).filter(str.strip))
def test_whatever_is_sent_is_nobody_unless_it_is_the_token(given, secret):
    tokens = Tokens(ServerSettings(token=secret))
    sent = given.encode("utf-8", "surrogatepass") if isinstance(given, str) else given
    assume(sent.strip() != secret.strip().encode("utf-8", "surrogatepass"))
    for scheme in (b"Bearer ", b"", b"Basic "):
        assert tokens.role(scheme + sent) is Role.NOBODY


@pytest.fixture(params=["port", "socket"])
def admin_listen(request, tmp_path):
    if request.param == "socket":
        return f"unix:{tmp_path}/admin"
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


async def test_admin_calls_have_an_address_of_their_own(
    serve, model, make_servable, make_shelf, fp32_spec, admin_listen
):
    shelf = make_shelf([fp32_spec], echo=["1"])
    served = make_servable(model.execute, [fp32_spec])
    async with serve(served, repository=shelf, admin=True, admin_listen=admin_listen) as address:
        async with grpc.aio.insecure_channel(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await unload(channel)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "server.admin_listen" in refused.value.details()
        async with grpc.aio.insecure_channel(admin_listen) as channel:
            assert (await unload(channel)).isUnloaded
    assert shelf.released


async def test_the_socket_of_admin_calls_is_its_owners_and_gone_afterwards(serve, tmp_path):
    path = tmp_path / "admin"
    async with serve(admin=True, admin_listen=f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_a_socket_at_which_somebody_listens_is_not_taken_away(serve, tmp_path):
    path = f"unix:{tmp_path}/socket"
    async with serve(grpc_host=path):
        with pytest.raises(ConfigError, match=r"server.grpc_host and grpc_port: cannot listen on unix:"):
            async with serve(grpc_host=path):
                pass
        assert await server_metadata(path)


async def test_a_socket_that_a_dead_process_left_is_used_again(serve, tmp_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{tmp_path}/socket")
    async with serve(grpc_host=f"unix:{tmp_path}/socket") as address:
        assert await server_metadata(address)


async def unload(channel):
    message = pb.RepositoryModelUnloadRequest(model_name="echo")
    return await GRPCInferenceServiceStub(channel).RepositoryModelUnload(message)


async def test_a_call_over_tls_comes_back(serve, certificate):
    pem = certificate / "cert.pem"
    trusted = grpc.ssl_channel_credentials(pem.read_bytes())
    async with (
        serve(tls_certificate=pem, tls_key=certificate / "key.pem") as address,
        grpc.aio.secure_channel(address, trusted) as channel,
    ):
        reply = await GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest())
    assert reply.live


async def test_a_certificate_that_is_none_is_a_config_error(serve, token_file):
    with pytest.raises(ConfigError, match=r"server.tls_certificate and tls_key are no PEM pair"):
        async with serve(tls_certificate=token_file, tls_key=token_file):
            pass
