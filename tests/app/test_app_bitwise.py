"""A reply is bit for bit what the module itself answers to the same batch, observed or not."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch

from sidecar._pb import open_inference_pb2 as pb

pytestmark = pytest.mark.usefixtures("front_end")


def keep_batches(model):
    """Every batch that runs from now on, as it was before it ran."""
    batches = []
    for name in ("plain", "instrumented"):
        run = getattr(model.runtime, name)

        def kept(batch, run=run):
            batches.append({each: tensor.array.copy() for each, tensor in batch.items()})
            return run(batch)

        setattr(model.runtime, name, kept)
    return batches


def directly(model, pixels):
    with torch.inference_mode():
        return model.runtime._plain(torch.from_numpy(pixels)).numpy()


@pytest.mark.parametrize("enabled", [True, False], ids=["observed", "plain"])
async def test_replies_are_those_of_the_module_on_the_same_batch(serve, configure, enabled):
    rng = np.random.default_rng(0)
    sent = [rng.uniform(0, 16, (1 + number % 3, 64)).astype(np.float32) for number in range(60)]
    async with serve(configure(capture={"enabled": enabled})) as client:
        batches = keep_batches(client.model)
        replies = await asyncio.gather(*map(client.infer, sent))
        sampled = client.recorder.sampled if enabled else 0
    expected = {
        pixels.tobytes(): logits.tobytes()
        for batch in batches
        for pixels, logits in zip(batch["pixels"], directly(client.model, batch["pixels"]), strict=True)
    }
    assert any(len(batch["pixels"]) > 3 for batch in batches)
    assert sampled == (60 if enabled else 0)
    for pixels, reply in zip(sent, replies, strict=True):
        assert [row.tobytes() for row in reply] == [expected[row.tobytes()] for row in pixels]


@pytest.mark.parametrize("enabled", [True, False], ids=["observed", "plain"])
async def test_typed_and_raw_contents_get_the_same_bits(serve, configure, enabled):
    pixels = np.random.default_rng(1).uniform(0, 16, (3, 64)).astype(np.float32)
    typed = pb.ModelInferRequest(model_name="digits")
    typed.inputs.add(name="pixels", datatype="FP32", shape=pixels.shape).contents.fp32_contents.extend(
        pixels.ravel().tolist()
    )
    async with serve(configure(capture={"enabled": enabled})) as client:
        raw = await client.infer(pixels)
        reply = await client._stub.ModelInfer(typed, timeout=60)
        stream = client._stub.ModelStreamInfer(timeout=60)
        await stream.write(typed)
        streamed = (await stream.read()).infer_response
        await stream.done_writing()
    assert reply.raw_output_contents[0] == raw.tobytes() == directly(client.model, pixels).tobytes()
    assert streamed.raw_output_contents[0] == raw.tobytes()
