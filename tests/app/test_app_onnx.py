"""ONNX models served whole: the answers of ONNX Runtime, and the sketches of the torch runtime."""

from __future__ import annotations

import httpx
import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient.grpc.aio as triton
from typer.testing import CliRunner

from sidecar import cli, costs, runtime
from sidecar.app import Sidecar
from sidecar.errors import ConfigError
from sidecar.model import Model
from sidecar.observation import observe
from sidecar.types import InferRequest, Tensor
from tests.runtime.exports import BLOCKS, TOKENS, WIDTH, WORDS
from tests.runtime.graphs import model, node, save, square, value

LOGITS = [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
TAKES = {
    "pre-norm": {"name": "x", "datatype": "INT64", "shape": [-1, TOKENS]},
    "network": {"name": "x", "datatype": "FP32", "shape": [-1, 3, 32, 32]},
}


@pytest.fixture
def settings(configure, exported):
    """Settings of an exported model: under onnx, or with a factory under torch."""

    def settings(name, factory=None, model=None, **sections):
        where = (
            {"source": f"tests.runtime.exports:{factory}"}
            if factory
            else {"runtime": "onnx", "path": str(exported(name))}
        )
        base = {"name": "exported", "source": None, "inputs": [TAKES[name]], "outputs": LOGITS, "threads": 1}
        return configure({**base, **where, **(model or {})}, **sections)

    return settings


def words(rows):
    return np.random.default_rng(rows).integers(0, WORDS, (rows, TOKENS))


def images(rows):
    return np.random.default_rng(rows).standard_normal((rows, 3, 32, 32)).astype(np.float32)


def sketches(configured, x):
    """Tap key -> what one batch, all of it observed, left there."""
    (model_settings,) = configured.models
    model = runtime.load(model_settings)
    recorder = observe(model, model_settings, configured, lambda _: None, lambda: 0.0).recorder
    batch = {"x": Tensor(model_settings.inputs[0].datatype, x)}
    assert recorder.open([InferRequest(str(i), batch, 1) for i in range(len(x))], always=True)
    model.instrumented(batch)
    recorder.close()
    reading = recorder.drain(0.0)
    assert recorder.guard.failures["tap"] == 0
    return {tap.key: (sketch, reading.rows[tap].values) for tap, sketch in reading.sketches.items()}


@pytest.mark.parametrize(
    ("name", "factory", "x"), [("pre-norm", "pre_norm", words(8)), ("network", "network", images(8))]
)
def test_the_sketch_is_that_of_the_torch_runtime(settings, name, factory, x):
    """Both compute in float32 and sum in another order: moments agree to 1e-6 of a standard deviation, a single
    value to 5e-6, and at most one value in 10,000 lies on the other side of the edge of its bucket."""
    ours, theirs = sketches(settings(name), x), sketches(settings(name, factory), x)
    assert list(ours) == list(theirs)
    for key, (sketch, rows) in ours.items():
        expected, expected_rows = theirs[key]
        assert sketch.counts == expected.counts
        n, deviation = expected.moments.n, np.sqrt(expected.moments.m2 / expected.moments.n)
        assert sketch.moments.mean == pytest.approx(expected.moments.mean, rel=0, abs=1e-6 * deviation)
        for power, moment in ((2, "m2"), (3, "m3"), (4, "m4")):
            gap = getattr(sketch.moments, moment) - getattr(expected.moments, moment)
            assert abs(gap) / n <= 1e-6 * deviation**power
        for end in ("minimum", "maximum"):
            gap = getattr(sketch.moments, end) - getattr(expected.moments, end)
            assert abs(gap) <= 5e-6 * deviation
        moved = sketch.histogram.counts - expected.histogram.counts
        assert np.abs(moved).sum() <= 2e-4 * n
        assert np.abs(np.cumsum(moved)).max() <= 1e-4 * n
        assert np.allclose(sketch.channels.total, expected.channels.total, rtol=1e-4, atol=1e-3)
        assert np.allclose(rows, expected_rows, rtol=1e-4, atol=1e-5, equal_nan=True)


def direct(path, x):
    """What ONNX Runtime answers when nobody is there but it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"x": x})[0]


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize(("name", "make"), [("pre-norm", words), ("network", images)])
async def test_clients_get_the_bits_of_onnx_runtime(settings, exported, enabled, name, make):
    sidecar = Sidecar(settings(name, capture={"enabled": enabled}), lambda: 1_000_000.0)
    await sidecar.start()
    try:
        async with triton.InferenceServerClient(f"127.0.0.1:{sidecar.grpc_port}") as client:
            assert (await client.get_model_metadata("exported")).platform == "onnxruntime_onnx"
            for rows in (1, 3, 8):
                x = make(rows)
                sent = triton.InferInput("x", x.shape, TAKES[name]["datatype"])
                sent.set_data_from_numpy(x)
                answer = (await client.infer("exported", [sent])).as_numpy("logits")
                assert answer.tobytes() == direct(exported(name), x).tobytes()
        async with httpx.AsyncClient(trust_env=False) as http:
            metrics = (await http.get(f"http://127.0.0.1:{sidecar.http_port}/metrics")).text
        assert f'sidecar_instrumented{{model="exported",version="1"}} {float(enabled)}' in metrics
        assert ('layer="1"' in metrics) is enabled
    finally:
        await sidecar.stop()
    if enabled:
        observation = sidecar.models[0].observation
        for tap in observation.taps:
            assert observation.timeline.total(tap).counts.requests == 3


def test_taps_may_be_named_by_the_node_that_gives_the_value(settings, exported):
    proto = onnx.load_model(exported("pre-norm"))
    gelu = [node for node in proto.graph.node if node.op_type == "Gelu"]
    assert gelu[0].name != gelu[0].output[0]
    rows = costs.modules(
        settings("pre-norm", model={"taps": [gelu[0].name, gelu[1].output[0]]}).models[0],
        settings("pre-norm").capture,
    )
    assert [row.module for row in rows if row.chosen] == [node.output[0] for node in gelu]


def test_every_value_has_a_cost_and_the_shape_of_one_request(settings):
    everything = settings("pre-norm")
    rows = {row.module: row for row in costs.modules(everything.models[0], everything.capture)}
    chosen = [row for row in rows.values() if row.chosen]
    assert [row.shape for row in chosen] == [(TOKENS, WIDTH)] * BLOCKS
    assert all(row.seconds > 0 for row in rows.values())
    assert len(rows) > 10 * BLOCKS


def test_taps_that_match_nothing_are_told_near_ones(settings):
    with pytest.raises(ConfigError, match=r"match nothing; near are .*linear_1"):
        Model(settings("pre-norm", model={"taps": ["linear1"]}).models[0], settings("pre-norm"), lambda: 0.0)


def test_a_model_without_a_batch_dimension_is_observed_as_one_request(configure, tmp_path):
    proto = model([node("MatMul", "x w", "h"), node("Add", "h x", "y")], {"w": square(4)},
                  inputs=[value("x", [3, 4])], outputs=[value("y", [3, 4])])  # fmt: skip
    spec = {"datatype": "FP32", "shape": [3, 4]}
    everything = configure(
        {
            "source": None,
            "runtime": "onnx",
            "path": str(save(proto, tmp_path / "model.onnx")),
            "inputs": [{"name": "x", **spec}],
            "outputs": [{"name": "y", **spec}],
            "batching": {"max_rows": 0},
        }
    )
    assert Model(everything.models[0], everything, lambda: 0.0).detail == ""


def test_sidecar_check_says_what_it_tapped(settings, exported, tmp_path):
    config = tmp_path / "sidecar.toml"
    config.write_text(
        f"""
        [[models]]
        name = "exported"
        runtime = "onnx"
        path = "{exported("pre-norm")}"
        inputs = [{{ name = "x", datatype = "INT64", shape = [-1, {TOKENS}] }}]
        outputs = [{{ name = "logits", datatype = "FP32", shape = [-1, 10] }}]
        """
    )
    said = CliRunner().invoke(cli.app, ["check", "--config", str(config)]).output
    assert "self-check passed" in said
    assert [line.split()[0] for line in said.splitlines() if "of inference" in line] == ["0/resid", "1/resid"]
