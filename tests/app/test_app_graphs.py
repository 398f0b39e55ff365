"""Models that are graphs, served for real: compiled and exported ones, beside the same model with hooks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from sidecar import runtime
from sidecar.observation import observe
from sidecar.types import InferRequest, Tensor
from tests.app.factories import Residual

ROOT = Path(__file__).parent.parent.parent
SOURCE = {"source": "tests.app.factories:Residual", "batching": {"max_rows": 4}}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("package") / "residual.pt2"
    free = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(Residual().eval(), (torch.randn(2, 64),), dynamic_shapes=free)
    torch.export.save(program, path)
    return path


@pytest.fixture(params=["compiled", "exported", pytest.param("compiled package", marks=pytest.mark.slow)])
def way(request, package, program, monkeypatch):
    """Settings of one model that is a graph."""
    changes = dict(SOURCE)
    if request.param != "exported":
        program(os.environ.get("CXX", "g++"))
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(ROOT / "build" / "inductor"))
        changes["compile"] = True
    if request.param != "compiled":
        changes |= {"source": None, "path": str(package), "trust": True}
    return changes


def batches():
    generator = np.random.default_rng(0)
    return [generator.standard_normal((rows, 64)).astype(np.float32) for rows in (1, 3, 4, 2)]


def observed(configured):
    """The observation of `configured`'s model after `batches`."""
    (settings,) = configured.models
    model = runtime.load(settings)
    observation = observe(model, settings, configured, lambda _: None, lambda: 0.0)
    for pixels in batches():
        batch = {"pixels": Tensor("FP32", pixels)}
        assert observation.recorder.open([InferRequest("r", batch, len(pixels))], always=True)
        model.instrumented(batch)
        observation.recorder.close()
    return observation


def moments(sketch):
    """Of values and of their powers about the mean, each by value."""
    m = sketch.moments
    return m.mean, m.m2 / m.n, m.m3 / m.n, m.m4 / m.n, m.minimum, m.maximum


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
async def test_a_graph_is_served_bit_by_bit_as_its_plain_variant_and_seen_as_through_hooks(
    configure, serve, way
):
    expected = observed(configure(SOURCE)).recorder.drain(0.0)
    async with serve(configure(way)) as client:
        assert client.model.detail == ""
        for pixels in batches():
            answer = await client.infer(pixels)
            plain = client.model.runtime.plain({"pixels": Tensor("FP32", pixels)})["logits"].array
            assert answer.tobytes() == plain.tobytes()
    timeline = client.model.observation.timeline
    assert client.model.observation.taps == tuple(expected.sketches)
    for tap, sketch in expected.sketches.items():
        seen = timeline.total(tap)
        assert seen.counts == sketch.counts
        assert np.array_equal(seen.channels.fires, sketch.channels.fires)
        assert moments(seen) == pytest.approx(moments(sketch), rel=1e-6)
    assert client.model.status().telemetry_seconds > 0
