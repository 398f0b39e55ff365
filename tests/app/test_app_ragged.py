"""Requests of different lengths share a batch, and neither replies nor statistics know of the padding."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest

from sidecar._pb import open_inference_pb2 as pb
from sidecar.app import Sidecar
from sidecar.errors import InferenceError
from tests.app.factories import TOKENS

LENGTHS = [3, 5, 8, 1, 12, 7, 16, 2, 30, 0]
"""Of one request each; 30 is beyond every bucket."""


def tagger(configure, name="Tagger", **changes):
    tokens = {"name": "tokens", "datatype": "INT64", "shape": [-1, -1]}
    tags = {"name": "tags", "datatype": "FP32", "shape": [-1, -1, 4]}
    batching = {"max_rows": 16, "ragged_buckets": [8, 16], "max_delay_ms": 50}
    return configure(
        {
            "source": f"tests.app.factories:{name}",
            "inputs": [{**tokens, "pad_value": TOKENS - 1}],
            "outputs": [tags],
            "taps": ["layer"],
            "batching": batching,
            **changes,
        }
    )


def message(tokens):
    asked = pb.ModelInferRequest(model_name="digits", raw_input_contents=[tokens.tobytes()])
    asked.inputs.add(name="tokens", datatype="INT64", shape=tokens.shape)
    return asked


async def tag(client, tokens):
    reply = await client._stub.ModelInfer(message(tokens), timeout=60)
    return np.frombuffer(reply.raw_output_contents[0], np.float32).reshape(reply.outputs[0].shape)


def sentences():
    rng = np.random.default_rng(0)
    return [rng.integers(0, TOKENS - 1, (1 + number % 2, length)) for number, length in enumerate(LENGTHS)]


def batches(client):
    """The shape of every batch that runs from now on."""
    shapes = []
    for variant in ("plain", "instrumented"):
        run = getattr(client.model.runtime, variant)

        def noted(batch, run=run):
            shapes.append(batch["tokens"].array.shape)
            return run(batch)

        setattr(client.model.runtime, variant, noted)
    return shapes


@pytest.mark.parametrize("enabled", [True, False], ids=["observed", "plain"])
async def test_each_request_is_answered_in_its_own_length(serve, configure, enabled):
    configured = tagger(configure)
    if not enabled:
        configured = configured.model_copy(
            update={"capture": configured.capture.model_copy(update={"enabled": False})}
        )
    async with serve(configured) as client:
        shapes = batches(client)
        sent = sentences()
        replies = await asyncio.gather(*(tag(client, tokens) for tokens in sent))
        for tokens, reply in zip(sent, replies, strict=True):
            expected = client.model.runtime._model.tags(tokens)
            assert reply.tobytes() == expected.tobytes()
            assert reply.shape == expected.shape
    assert {length for _, length in shapes} == {8, 16, 30}
    assert len(shapes) < len(sent)


async def test_padding_is_not_observed(serve, configure):
    readings = []
    async with serve(tagger(configure)) as client:
        drainer = client.model.observation.drainer
        sink = drainer._sink
        drainer._sink = lambda reading: (readings.append(reading), sink(reading))
        sent = sentences()
        await asyncio.gather(*(tag(client, tokens) for tokens in sent))
    assert client.recorder.guard.failures.total() == client.recorder.dropped.total() == 0
    counts = [next(iter(reading.sketches.values())).counts for reading in readings]
    assert sum(count.positions for count in counts) == sum(tokens.size for tokens in sent)
    # The activation of a token is the token, and that of the padding would be larger than all.
    means = np.concatenate([next(iter(reading.rows.values())).mean for reading in readings])
    np.testing.assert_allclose(
        sorted(means[~np.isnan(means)]), sorted(tokens.mean() for tokens in sent if tokens.size), rtol=1e-6
    )


@pytest.mark.parametrize("name", ["Flattened", "Crossed"])
async def test_where_a_tap_cannot_tell_padding_padded_requests_are_counted_and_not_observed(
    serve, configure, name, caplog
):
    async with serve(tagger(configure, name)) as client:
        await tag(client, np.ones((1, 5), np.int64))
        assert client.recorder.sampled == 0
        assert client.recorder.dropped["padded"] == 1
        await tag(client, np.ones((1, 8), np.int64))
        assert client.recorder.sampled == 1
    assert "padded requests of digits are not observed: its positions cannot be told at layer" in caplog.text


def test_an_output_whose_length_is_another_is_found_at_load(configure):
    with pytest.raises(InferenceError, match=r"output tags has shape \[1, 3, 4\] for inputs of length 8"):
        Sidecar(tagger(configure, "Shortened"), lambda: 0.0)


async def test_inputs_of_different_lengths_are_refused(serve, configure):
    second = {"name": "more", "datatype": "INT64", "shape": [-1, -1]}
    configured = tagger(configure)
    (first,) = configured.models[0].inputs
    async with serve(tagger(configure, "Two", inputs=[first.model_dump(), second])) as client:
        asked = message(np.ones((1, 5), np.int64))
        asked.inputs.add(name="more", datatype="INT64", shape=[1, 4])
        asked.raw_input_contents.append(np.ones((1, 4), np.int64).tobytes())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client._stub.ModelInfer(asked, timeout=60)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "must be the same: 'tokens' has 5 in dimension 1, 'more' has 4" in refused.value.details()
