"""Several threads run one model over the same weights, and what they observe stays exact."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
import torch

from sidecar.errors import ConfigError, ModelError
from sidecar.model import Model
from sidecar.server.batching import Batcher
from sidecar.settings import BatchingSettings
from sidecar.types import InferRequest, Tensor

ROWS = 3
INSTANCES = 4


class Rendezvous(torch.nn.Module):
    """Doubles integers, and where `barrier` is set only when as many threads as it takes are inside at once."""

    barrier: threading.Barrier | None = None

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if Rendezvous.barrier:
            Rendezvous.barrier.wait(30)
        return self.layer(x) * 2


class Silent:
    """A ServingObserver."""

    def __getattr__(self, name):
        return lambda *_: None


@pytest.fixture
def instances(configure):
    """A model of `INSTANCES` threads, and a batcher that makes each request a batch of its own."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
    changes = {
        "source": f"{__name__}:Rendezvous", "inputs": [tensor], "outputs": [{**tensor, "name": "y"}],
        "taps": ["layer"], "instances": INSTANCES, "batching": {"max_rows": ROWS},
    }  # fmt: skip
    configured = configure(changes)
    model = Model(configured.models[0], configured, lambda: 0.0)
    model.start()
    return model, Batcher(model.servable, BatchingSettings(), Silent())


def value(number):
    """Small whole numbers."""
    return number % 16


def request(number):
    values = np.full((ROWS, 4), value(number), np.float32)
    return InferRequest(str(number), {"x": Tensor("FP32", values)}, ROWS)


async def answered(batcher, numbers):
    replies = await asyncio.gather(*(batcher.submit(request(number)) for number in numbers))
    for number, reply in zip(numbers, replies, strict=True):
        assert (reply.outputs["y"].array == 2 * value(number)).all()


async def test_as_many_batches_run_at_once_as_there_are_instances(instances, monkeypatch):
    model, batcher = instances
    # None gets through before all are inside.
    monkeypatch.setattr(Rendezvous, "barrier", threading.Barrier(INSTANCES))
    await answered(batcher, range(1, INSTANCES + 1))
    await batcher.close()
    await model.stop()


async def test_counts_and_sums_are_those_of_the_requests_that_were_observed(instances):
    model, batcher = instances
    recorder = model.observation.recorder
    seen = []
    give_slots = recorder._give_slots

    def noted(requests, chosen, *, counted):
        taken = give_slots(requests, chosen, counted=counted)
        seen.extend(value(int(one.id)) for one in requests if taken)
        return taken

    recorder._give_slots = noted
    numbers = list(range(1, 1001))
    for start in range(0, len(numbers), 100):
        await answered(batcher, numbers[start : start + 100])
    await batcher.close()
    await model.stop()
    (tap,) = model.observation.taps
    total = model.observation.timeline.total(tap)
    sketch = model.observation.timeline.window(1e9, tap)
    assert recorder.sampled == len(seen) == total.counts.requests > 0
    assert recorder.sampled + recorder.dropped["busy"] == len(numbers)
    assert (recorder.dropped["stuck"], recorder.guard.failures["tap"]) == (0, 0)
    assert total.counts.values == 4 * ROWS * len(seen)
    # Sums are kept about a pivot, which is no whole number; a row that got lost would be a thousand times this.
    assert sketch.channels.total == pytest.approx(ROWS * sum(seen), rel=1e-7)
    assert sketch.absmax == max(seen)


async def test_closing_ends_every_thread(instances):
    model, batcher = instances
    await answered(batcher, range(1, 40))
    await batcher.close()
    await model.stop()
    for thread in threading.enumerate():
        if thread.name.startswith("sidecar"):
            await asyncio.to_thread(thread.join, 60)
            assert not thread.is_alive()


def test_a_compiled_model_has_one_instance(configure):
    with pytest.raises(ConfigError, match="instances above 1 do not go with compile"):
        configure({"instances": 2, "compile": True})


def test_onnx_on_a_gpu_has_one_instance(configure, tmp_path):
    onnx = {
        "runtime": "onnx",
        "source": None,
        "path": str(tmp_path / "m.onnx"),
        "device": "cuda",
        "instances": 2,
    }
    configured = configure(onnx)
    with pytest.raises((ConfigError, ModelError), match="instances above 1 need device cpu"):
        Model(configured.models[0], configured, lambda: 0.0)
