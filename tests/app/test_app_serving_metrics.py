"""What a scrape says of requests that were really served."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from sidecar._pb import open_inference_pb2 as pb

STAGES = ("assembly", "compute", "response")


async def test_a_batch_is_measured_stage_by_stage_and_byte_by_byte(serve, configure):
    async with serve(configure()) as client:
        await client.infer(np.zeros((2, 64), np.float32))
        found = await client.metrics()
        (stats,) = (await client._stub.ModelStatistics(pb.ModelStatisticsRequest(name="digits"))).model_stats
    sums = [found(f"sidecar_batch_{stage}_duration_seconds_sum") for stage in STAGES]
    assert all(found(f"sidecar_batch_{stage}_duration_seconds_count") == 1 for stage in STAGES)
    assert min(sums) > 0
    assert found("sidecar_queue_duration_seconds_sum") + sum(sums) < found(
        "sidecar_request_duration_seconds_sum"
    )
    assert (found("sidecar_input_bytes_total"), found("sidecar_output_bytes_total")) == (
        2 * 64 * 4,
        2 * 10 * 4,
    )
    measured = stats.inference_stats
    told = (measured.compute_input.ns, measured.compute_infer.ns, measured.compute_output.ns)
    assert told == tuple(pytest.approx(seconds * 1e9, abs=1) for seconds in sums)


@pytest.mark.parametrize("wanted", [True, False])
async def test_triton_names_are_there_when_they_are_wanted(serve, configure, wanted):
    async with serve(configure(export={"triton_names": wanted})) as client:
        await client.infer(np.zeros((2, 64), np.float32))
        with pytest.raises(grpc.aio.AioRpcError):
            await client.infer(np.zeros((2, 63), np.float32))
        text = (await client.http.get("/metrics")).text
    told = 'nv_inference_count{model="digits",version="1"} 2.0\n' in text
    failed = 'nv_inference_request_failure{model="digits",reason="OTHER",version="1"} 1.0\n' in text
    assert (told, failed, "nv_" in text) == (wanted, wanted, wanted)
