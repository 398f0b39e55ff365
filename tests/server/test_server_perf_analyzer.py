"""Triton's perf_analyzer, where `python -m tests.bench.clients` has fetched it."""

from __future__ import annotations

import asyncio
import json

import pytest

from sidecar.types import TensorSpec
from tests.bench import perf_analyzer
from tests.server.talker import Talker, talking

pytestmark = pytest.mark.skipif(
    not perf_analyzer.fetched(), reason="perf_analyzer is not here; `make test-full` fetches it"
)

LOAD = ("--concurrency-range", "4", "--request-count", "40")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--streaming",),
        ("--shared-memory", "system", "--output-shared-memory-size", "64"),
    ],
    ids=["unary", "stream", "shared memory"],
)
async def test_perf_analyzer_finds_the_model_loads_it_and_reads_its_statistics(
    serve, model, make_servable, options, ledger
):
    specs = [TensorSpec("x", "FP32", (-1, 4))]
    async with serve(
        make_servable(model.execute, specs), admin=True, shared_memory=("/x", "/x_0", "/x_0_0")
    ) as address:
        found = await asyncio.to_thread(perf_analyzer.run, address, "echo", (*LOAD, *options))
    assert found["Concurrency"] == 4
    assert found["Inferences/Second"] > 0
    assert found["p99 latency"] >= found["p50 latency"] > 0
    assert ledger.codes.keys() == {"OK"}
    assert ledger.codes["OK"] >= 40


async def test_perf_analyzer_gets_every_reply_of_a_decoupled_model(serve, tmp_path, ledger):
    talker, numbers = Talker(), tmp_path / "inputs.json"
    numbers.write_text(json.dumps({"data": [{"n": [3]}]}))
    async with serve(talking(talker)) as address:
        options = (*LOAD, "--streaming", "--input-data", str(numbers))
        found = await asyncio.to_thread(perf_analyzer.run, address, "talker", options)
    assert found["Response Throughput"] == pytest.approx(3 * found["Inferences/Second"], rel=0.2)
    assert ledger.codes.keys() == {"OK"}
    assert talker.made == 3 * ledger.codes["OK"]
