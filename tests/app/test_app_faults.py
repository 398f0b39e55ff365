"""Telemetry is broken in every way there is, under real requests; none is lost and none answered differently."""

from __future__ import annotations

import asyncio
import threading

from sidecar.capture import Governor

REQUESTS = 120


def boom(*_args, **_kwargs):
    raise ValueError("telemetry is broken")


class Hang:
    """Blocks whoever calls it until released."""

    def __init__(self):
        self.entered, self.released = threading.Event(), threading.Event()

    def __call__(self, *_args, **_kwargs):
        self.entered.set()
        assert self.released.wait(60)


async def test_with_nothing_broken_every_request_is_observed(serve, configure):
    async with serve(configure()) as client:
        await client.send(REQUESTS)
        counts = await client.metrics()
    assert counts("sidecar_sampled_requests_total") == REQUESTS
    assert counts("sidecar_requests_total", code="OK") == REQUESTS
    assert (
        client.model.observation.timeline.total(client.model.observation.taps[0]).counts.requests == REQUESTS
    )


async def test_a_sampler_that_raises_loses_no_request(serve, configure, monkeypatch):
    monkeypatch.setattr(Governor, "sample", boom)
    async with serve(configure()) as client:
        await client.send(REQUESTS)
        counts = await client.metrics()
    assert counts("sidecar_telemetry_failures_total", part="sampling") > 0
    assert counts("sidecar_sampled_requests_total") == 0


async def test_slots_that_cannot_be_given_lose_no_request(serve, configure):
    async with serve(configure()) as client:
        client.recorder._give_slots = boom
        await client.send(REQUESTS)
        assert (await client.metrics())("sidecar_telemetry_failures_total", part="sampling") > 0
        del client.recorder._give_slots
        await client.send(REQUESTS)
        counts = await client.metrics()
    assert counts("sidecar_sampled_requests_total") == REQUESTS
    assert counts("sidecar_dropped_samples_total", reason="stuck") == 0


async def test_a_tap_that_raises_loses_no_request(serve, configure, monkeypatch):
    async with serve(configure()) as client:
        monkeypatch.setattr("sidecar.capture.launch_cpu._fold", boom)
        await client.send(REQUESTS)
        counts = await client.metrics()
    assert counts("sidecar_telemetry_failures_total", part="tap") > 0


async def test_an_output_that_cannot_be_looked_into_loses_no_request(serve, configure):
    async with serve(configure()) as client:
        client.model.runtime._instrumented.blocks[2].register_forward_hook(boom)
        await client.send(REQUESTS)
        assert (await client.metrics())("sidecar_requests_total", code="OK") == REQUESTS


async def test_an_instrumented_variant_that_raises_loses_no_request(serve, configure):
    async with serve(configure()) as client:
        client.model.runtime.instrumented = boom
        await client.send(REQUESTS)
        assert (await client.metrics())("sidecar_requests_total", code="OK") == REQUESTS


async def test_an_instrumented_variant_that_hangs_loses_no_request_and_is_observed_again_later(
    serve, configure
):
    hang = Hang()
    async with serve(configure(capture={"patience_ms": 300})) as client:
        client.model.runtime._instrumented.blocks[2].register_forward_hook(hang)
        await client.send(REQUESTS)
        assert hang.entered.is_set()
        stuck = await client.metrics()
        hang.released.set()
        while client.recorder._observing:
            await asyncio.to_thread(client.recorder.drain, 0.01)
        await client.send(REQUESTS)
        after = await client.metrics()
    dropped = stuck("sidecar_dropped_samples_total", reason="stuck")
    sampled = stuck("sidecar_sampled_requests_total")
    assert sampled + dropped == REQUESTS
    assert 0 < sampled <= 8
    assert after("sidecar_sampled_requests_total") == sampled + REQUESTS
    assert after("sidecar_requests_total", code="OK") == 2 * REQUESTS
    for name in ("sidecar_inference_seconds_total", "sidecar_telemetry_seconds_total"):
        assert after(name) >= stuck(name)


async def test_a_judge_that_raises_loses_no_request(serve, configure):
    async with serve(configure()) as client:
        client.model.observation.monitor.observe = boom
        await client.send(REQUESTS)
    assert client.recorder.guard.failures["judge"] > 0


async def test_a_drain_that_raises_loses_no_request(serve, configure):
    async with serve(configure(capture={"slots": 16})) as client:
        client.recorder._read = boom
        await client.send(REQUESTS)
    assert client.recorder.guard.failures["drain"] > 0
    assert client.recorder.sampled <= 32
    assert client.recorder.sampled + client.recorder.dropped["slots"] == REQUESTS


async def test_a_judge_that_hangs_loses_no_request(serve, configure, monkeypatch):
    monkeypatch.setattr("sidecar.model.STOP_SECONDS", 0.1)
    hang = Hang()
    async with serve(configure(capture={"slots": 16})) as client:
        client.model.observation.monitor.observe = hang
        await client.send(REQUESTS)
        counts = await client.metrics()
    hang.released.set()
    assert counts("sidecar_requests_total", code="OK") == REQUESTS
    assert counts("sidecar_dropped_samples_total", reason="slots") > 0


async def test_full_slots_lose_no_request(serve, configure):
    async with serve(configure(capture={"slots": 16, "drain_seconds": 60})) as client:
        await client.send(REQUESTS)
        counts = await client.metrics()
    assert counts("sidecar_sampled_requests_total") == 16
    assert counts("sidecar_dropped_samples_total", reason="slots") == REQUESTS - 16


async def test_a_state_that_cannot_be_shown_fails_a_scrape_and_no_request(serve, configure):
    async with serve(configure()) as client:
        client.model.observation.monitor.state = boom
        assert (await client.http.get("/metrics")).status_code == 500
        await client.send(REQUESTS)
        assert (await client.http.get("/readyz")).status_code == 200
