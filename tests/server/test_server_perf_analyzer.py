"""Triton's perf_analyzer, where `python -m tests.bench.perf_analyzer` has fetched it."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.types import TensorSpec
from tests.bench import perf_analyzer

pytestmark = pytest.mark.skipif(
    not perf_analyzer.fetched(), reason="perf_analyzer is not here; `make bench-serving` fetches it"
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
