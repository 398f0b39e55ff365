"""What the log says of calls that failed."""

from __future__ import annotations

import logging

import grpc
import numpy as np
import pytest

from sidecar import log
from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from sidecar.errors import InvalidInputError
from sidecar.server.status import log_failure, text_of, trace_id

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01")
SECRETS = [("authorization", "Bearer s3cret"), ("x-account", "classified")]


@pytest.fixture
def lines():
    """Fields of each line that the server's loggers write, as the log would have them."""
    found = []

    class Keep(logging.Handler):
        def emit(self, record):
            found.append(log.Json().fields(record))

    handler = Keep()
    logging.getLogger("sidecar").addHandler(handler)
    yield found
    logging.getLogger("sidecar").removeHandler(handler)


def infer_message(values, model="echo"):
    message = pb.ModelInferRequest(model_name=model, model_version="1", id="r1")
    message.inputs.add(name="fp32", datatype="FP32", shape=[1, 3])
    message.raw_input_contents.append(np.array(values, np.float32).tobytes())
    return message


async def code_of(call):
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def test_a_failed_request_is_one_line_with_the_ids_to_find_it_by(
    serve, model, make_servable, fp32_spec, lines
):
    async with (
        serve(make_servable(model.execute, [fp32_spec])) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        metadata = [PARENT, *SECRETS]
        assert await code_of(stub.ModelInfer(infer_message([1, 2]), metadata=metadata)) == "INVALID_ARGUMENT"
        assert await code_of(stub.ModelInfer(infer_message([1, 2, 3]), metadata=metadata)) == "OK"
    (line,) = lines
    assert line.pop("time")
    assert line == {
        "level": "warning",
        "logger": "sidecar.access",
        "message": "input 'fp32' has 8 bytes, shape [1, 3] of FP32 needs 12",
        "request_id": "r1",
        "trace_id": TRACE,
        "model": "echo",
        "version": "1",
        "code": "INVALID_ARGUMENT",
    }


async def test_a_failed_request_of_a_stream_is_logged_alike(serve, model, make_servable, fp32_spec, lines):
    async with (
        serve(make_servable(model.execute, [fp32_spec])) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        call = GRPCInferenceServiceStub(channel).ModelStreamInfer(
            iter([infer_message([1, 2])]), metadata=[PARENT]
        )
        assert (await call.read()).error_message
        call.cancel()
    assert {name: lines[0][name] for name in ("request_id", "trace_id", "model", "code")} == {
        "request_id": "r1",
        "trace_id": TRACE,
        "model": "echo",
        "code": "INVALID_ARGUMENT",
    }


async def test_a_refused_stranger_is_a_line_without_what_they_showed(serve, token_file, lines):
    async with serve(token_file=token_file) as address, grpc.aio.insecure_channel(address) as channel:
        call = GRPCInferenceServiceStub(channel).ModelInfer(
            infer_message([1, 2, 3]), metadata=[("authorization", "Bearer guessed"), PARENT]
        )
        assert await code_of(call) == "UNAUTHENTICATED"
    (line,) = lines
    assert (line["code"], line["trace_id"]) == ("UNAUTHENTICATED", TRACE)
    assert line["method"] == "/inference.GRPCInferenceService/ModelInfer"
    assert "guessed" not in str(line)


async def test_what_nobody_foresaw_is_logged_whole_and_told_to_nobody(
    serve, model, make_servable, fp32_spec, lines, monkeypatch
):
    def surprise(*_, **__):
        raise ZeroDivisionError("in the engine room")

    monkeypatch.setattr("sidecar.server.codec.decode", surprise)
    async with (
        serve(make_servable(model.execute, [fp32_spec])) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await GRPCInferenceServiceStub(channel).ModelInfer(infer_message([1, 2, 3]), metadata=SECRETS)
    assert failed.value.details() == "the server failed; its log says why"
    (line,) = lines
    assert (line["level"], line["request_id"], line["code"]) == ("error", "r1", "INTERNAL")
    assert "ZeroDivisionError: in the engine room" in line["exception"]
    assert not any(secret in str(line) for _, secret in SECRETS)


@pytest.mark.parametrize(
    "given",
    [
        "",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-00f067aa0ba902b7",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        f"x\n{PARENT[1]}",
        b"\xff",
    ],
)
def test_a_trace_parent_that_is_none_gives_no_trace_id(given):
    assert trace_id([("traceparent", given)]) == ""


def test_an_id_with_a_line_end_is_kept_in_one_line(capsys, lines):
    message = pb.ModelInferRequest(id="r1\n2026 error sidecar: forged")
    log_failure(InvalidInputError("no"), [], message)
    record = logging.LogRecord("x", logging.WARNING, "", 0, "y", None, None)
    with log.request({"request_id": message.id}):
        assert "\n" not in log.Console().format(record)
    assert lines[0]["request_id"] == message.id


def test_no_other_text_than_that_of_our_errors_reaches_a_client():
    assert text_of(KeyError("/etc/passwd")) == "the server failed; its log says why"
