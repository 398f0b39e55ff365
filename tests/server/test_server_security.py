"""Tokens and TLS on a real port."""

from __future__ import annotations

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from sidecar.errors import ConfigError
from sidecar.server import tls
from sidecar.server.security import Tokens
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
    with pytest.raises(ConfigError, match="server.token_file is empty, must hold the token"):
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
    with pytest.raises(ConfigError, match="server.tls_certificate and tls_key are no PEM pair"):
        async with serve(tls_certificate=token_file, tls_key=token_file):
            pass
