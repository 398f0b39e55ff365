"""The API of a served model, over gRPC and as JSON."""

import grpc
import pytest
from google.protobuf.message import Message

from sidecar._pb import telemetry_pb2 as pb
from sidecar._pb.telemetry_pb2_grpc import ActivationTelemetryStub
from sidecar.console.api import METHODS
from sidecar.server.telemetry import SERVICE

GIVEN = {
    "ListTaps": {},
    "GetLayer": {"layer": 0},
    "GetHistogram": {"layer": 1, "per_octave": 2},
    "ListNeurons": {"layer": 0, "limit": 5, "order": "absmax"},
    "GetNeuron": {"layer": 0, "channel": 0},
    "GetDrivers": {"layer": 0, "channel": 0},
    "GetCofiring": {"layer": 0, "channels": [0, 3]},
    "GetInputs": {"layer": 0, "channel": 0},
    "GetMatrix": {"statistic": "kurtosis"},
    "GetDrift": {},
    "ListBaselines": {},
    "Compare": {"other_begin": 1.0},
}


@pytest.fixture
async def served(configure, serve):
    """A model that answered 120 requests, with a stub of the service."""
    async with serve(configure(console={"keep_inputs": 32, "budget": 64})) as client:
        await client.send(120)
        while (await client.http.get("/api/v1/layer", params={"layer": 0})).status_code == 403:
            pass
        async with grpc.aio.insecure_channel(f"127.0.0.1:{client.sidecar.grpc_port}") as channel:
            yield client, ActivationTelemetryStub(channel)


def tree(message):
    """A message as JSON has it: null for what is not set."""
    found = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type and field.message_type.GetOptions().map_entry:
            value = {key: tree(one) if isinstance(one, Message) else one for key, one in value.items()}
        elif field.is_repeated:
            value = [tree(one) if isinstance(one, Message) else one for one in value]
        elif field.has_presence and not message.HasField(field.name):
            value = None
        elif isinstance(value, Message):
            value = tree(value)
        found[field.name] = value
    return found


def without_gaps(value):
    """JSON's null for a number that gRPC says is NaN."""
    if isinstance(value, dict):
        return {key: without_gaps(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_gaps(one) for one in value]
    return None if isinstance(value, float) and value != value else value  # noqa: PLR0124


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"GetDrift"}))
async def test_grpc_says_the_same_as_json(served, name):
    client, stub = served
    request = getattr(pb, f"{name}Request")(**GIVEN[name])
    message = await getattr(stub, name)(request, timeout=60)
    given = (await client.http.get(f"/api/v1/{METHODS[name].path}", params=GIVEN[name])).json()
    said = without_gaps(tree(message))
    if name == "GetMatrix":
        said["values"] = [row["values"] for row in said["values"]]
    if name == "GetNeuron":
        said["distribution"] = {key: one["values"] for key, one in said["distribution"].items()}
    if name == "GetHistogram":
        said["reference_count"] = said["reference_count"] or None
    assert said == given


async def test_grpc_carries_the_state_of_drift_as_json(served):
    client, stub = served
    given, after = "before", "after"
    # A drain may come between two questions.
    while given != after:
        given = (await client.http.get("/api/v1/drift")).text
        message = await stub.GetDrift(pb.GetDriftRequest(), timeout=60)
        after = (await client.http.get("/api/v1/drift")).text
    assert message.state in given


async def test_a_question_that_cannot_be_answered_has_a_status_of_its_own(served):
    _, stub = served
    for request, code in (
        (pb.GetLayerRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.GetLayerRequest(layer=99), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.GetLayerRequest(layer=0, model="nope"), grpc.StatusCode.NOT_FOUND),
        (pb.GetLayerRequest(layer=0, begin=5, end=6), grpc.StatusCode.FAILED_PRECONDITION),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetLayer(request, timeout=60)
        assert refused.value.code() == code


def test_a_request_has_the_fields_of_its_question():
    for name, method in METHODS.items():
        fields = {field.name for field in SERVICE.methods_by_name[name].input_type.fields}
        assert fields == set(method.question.model_fields)


def test_a_reply_has_the_fields_of_its_answer():
    for name, method in METHODS.items():
        fields = {field.name for field in SERVICE.methods_by_name[name].output_type.fields}
        assert fields == set(method.answer.model_fields)


async def test_the_token_guards_the_service_too(configure, serve, tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cret")
    async with (
        serve(configure(server={"token_file": str(token)})) as client,
        grpc.aio.insecure_channel(f"127.0.0.1:{client.sidecar.grpc_port}") as channel,
    ):
        stub = ActivationTelemetryStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ListTaps(pb.ListTapsRequest(), timeout=60)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        allowed = (("authorization", "Bearer s3cret"),)
        assert (await stub.ListTaps(pb.ListTapsRequest(), timeout=60, metadata=allowed)).models
        assert (await client.http.get("/api/v1/taps")).status_code == 401
