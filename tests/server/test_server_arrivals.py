"""Requests read by their heads: the same requests as those of the codec, whatever came before."""

from __future__ import annotations

import gc
import weakref

import grpc
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar._pb import open_inference_pb2 as pb
from sidecar.errors import InvalidInputError
from sidecar.server import arrivals, codec
from sidecar.types import DATATYPES, Servable, TensorSpec

SPECS = (TensorSpec("a", "FP32", (-1, 3)), TensorSpec("b", "INT8", (-1, -1)))
SERVABLE = Servable("m", "1", "python", SPECS, SPECS, 8, start=None)


def message(*, id="", rows=1, second=2, names=("a", "b"), parameters=(), contents=None):
    shapes = {"a": (rows, 3), "b": (rows, second)}
    request = pb.ModelInferRequest(model_name="m", id=id)
    for name in names:
        spec = next(spec for spec in SPECS if spec.name == name)
        request.inputs.add(name=name, datatype=spec.datatype, shape=shapes[name])
        size = int(np.prod(shapes[name])) * DATATYPES[spec.datatype].itemsize
        request.raw_input_contents.append(bytes(range(size)) if contents is None else contents)
    for name in parameters:
        request.parameters[name].int64_param = 1
    return request


messages = st.builds(
    message,
    id=st.text(max_size=200),
    rows=st.integers(0, 9),
    second=st.integers(0, 3),
    names=st.permutations(["a", "b"]).flatmap(lambda names: st.sampled_from([names, names[:1], names * 2])),
    parameters=st.sets(st.text(min_size=1, max_size=3), max_size=1),
    contents=st.none() | st.binary(max_size=4),
)


def decoded(make):
    """What is told apart of a request, or the words that refuse it."""
    try:
        request = make()
    except InvalidInputError as error:
        return str(error)
    inputs = [
        (name, one.datatype, one.array.shape, one.array.tobytes()) for name, one in request.inputs.items()
    ]
    return request.id, inputs, request.rows, dict(request.parameters), request.deadline


def same_as_the_codec(raw, servable=SERVABLE):
    parsed = pb.ModelInferRequest.FromString(raw)
    arrival = arrivals.read(raw)
    assert arrival.head.message.model_name == parsed.model_name
    assert decoded(lambda: arrival.decode(servable, 5.0)) == decoded(
        lambda: codec.decode(parsed, servable, id=parsed.id, deadline=5.0)
    )


@given(st.lists(messages, min_size=1, max_size=6))
@example([message(), message(contents=b""), message(rows=2)])
def test_a_request_is_the_one_that_the_codec_makes_whatever_came_before(sent):
    arrivals.head_of.cache_clear()
    for one in sent:
        same_as_the_codec(one.SerializeToString())


@given(st.lists(st.sampled_from(range(7)), unique=True, min_size=7, max_size=7), st.text(max_size=5))
def test_fields_may_come_in_any_order(order, id):
    whole = message(id=id)
    parts = []
    for field in ("model_name", "id", "inputs", "raw_input_contents"):
        part = pb.ModelInferRequest()
        part.MergeFrom(whole)
        for other in ("model_name", "id", "inputs", "raw_input_contents"):
            if other != field:
                part.ClearField(other)
        parts.append(part.SerializeToString())
    raw = b"".join(parts[place] for place in order if place < len(parts))
    same_as_the_codec(raw)
    same_as_the_codec(raw)


@given(messages, st.data())
def test_what_is_no_message_is_none_or_what_protobuf_makes_of_it(sent, data):
    raw = bytearray(sent.SerializeToString())
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    if raw:
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = bytes(raw)
    try:
        pb.ModelInferRequest.FromString(raw)
    except arrivals.DecodeError:
        assert arrivals.read(raw) is None
    else:
        same_as_the_codec(raw)


def test_a_second_message_of_a_kind_is_not_parsed(monkeypatch):
    arrivals.head_of.cache_clear()
    arrivals.read(message(id="1").SerializeToString()).decode(SERVABLE, None)
    monkeypatch.setattr(codec, "decode", None)
    request = arrivals.read(message(id="2").SerializeToString()).decode(SERVABLE, None)
    assert request.id == "2"


def test_a_version_that_takes_the_place_of_another_checks_anew():
    arrivals.head_of.cache_clear()
    raw = message().SerializeToString()
    arrivals.read(raw).decode(SERVABLE, None)
    other = Servable("m", "2", "python", SPECS[:1], SPECS, 8, start=None)
    with pytest.raises(InvalidInputError, match="no input 'b'"):
        arrivals.read(raw).decode(other, None)


def test_a_head_does_not_hold_a_model_that_is_gone():
    arrivals.head_of.cache_clear()
    servable = Servable("m", "1", "python", SPECS, SPECS, 8, start=lambda _: None)
    kept = weakref.ref(servable.start)
    arrivals.read(message().SerializeToString()).decode(servable, None)
    del servable
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("field", [b"\x2a\x00", b"\x3a\x00", b"\x0a\x00"])
def test_a_message_of_countless_fields_is_left_to_protobuf(field):
    arrivals.head_of.cache_clear()
    assert arrivals.read(field * 10_000) is not None
    assert arrivals.head_of.cache_info().currsize == 0


def test_of_two_ids_both_must_be_text():
    whole = message().SerializeToString()
    assert arrivals.read(b"\x1a\x01\xff\x1a\x01a" + whole) is None
    assert arrivals.read(b"\x1a\x01b\x1a\x01a" + whole).id == "a"


def test_all_that_a_message_brings_waits_with_it():
    sent = message(id="x" * 10_000).SerializeToString()
    assert arrivals.read(sent).decode(SERVABLE, None).message_bytes == len(sent)
    assert arrivals.read(sent).decode(SERVABLE, None).message_bytes == len(sent)


def test_values_in_a_head_are_not_kept():
    arrivals.head_of.cache_clear()
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(name="a", datatype="FP32", shape=[100, 3]).contents.fp32_contents.extend(range(300))
    assert (
        arrivals.read(request.SerializeToString()).head is not arrivals.read(request.SerializeToString()).head
    )


def test_no_more_heads_are_kept_than_allowed():
    arrivals.head_of.cache_clear()
    for number in range(arrivals.HEADS + 10):
        arrivals.read(pb.ModelInferRequest(model_name=str(number)).SerializeToString())
    assert arrivals.head_of.cache_info().currsize == arrivals.HEADS


async def test_a_request_leaves_nothing_for_the_garbage_collector(serve, model, make_servable, fp32_spec):
    raw = message(names=["a"])
    raw.inputs[0].name, raw.model_name = "fp32", "echo"
    async with (
        serve(make_servable(model.execute, [fp32_spec])) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        await infer(raw.SerializeToString())
        model.batches.clear()
        gc.collect()
        gc.disable()
        try:
            for _ in range(100):
                await infer(raw.SerializeToString())
            model.batches.clear()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = [one for one in gc.garbage if type(one).__module__.startswith("sidecar.")]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert len(left) < 100
