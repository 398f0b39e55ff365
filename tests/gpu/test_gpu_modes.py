"""The op in a model in each way in which torch runs one, with the recorder and its drain around it."""

from __future__ import annotations

import threading

import pytest
import torch
from torch._dynamo.utils import counters

from sidecar.capture.state import TapState
from sidecar.types import Tap

CHANNELS = 384
CALLS = 5
WARM_UP = 3


@pytest.fixture
def x():
    return torch.randn(4, 33, CHANNELS, generator=torch.Generator().manual_seed(0)).to("cuda", torch.bfloat16)


@pytest.fixture(autouse=True)
def compiled_afresh():
    torch._dynamo.reset()
    counters.clear()


def observed(recorder, requests, run, x):
    assert recorder.open(requests)
    try:
        return run(x)
    finally:
        recorder.close()


def drained(recorder):
    """What the next drain brings, wherever the batch before it may be."""
    reading = recorder.drain(10.0)
    return next(iter(reading.sketches.values())), next(iter(reading.rows.values()))


@pytest.fixture
def warm(recorder, requests, tapped, mode, x):
    """The model in one of its modes, warmed up, its state empty."""
    model = tapped(CHANNELS)
    with torch.inference_mode():
        with recorder.banks.quiet:
            run = mode(model, x)
        for _ in range(WARM_UP):
            observed(recorder, requests, run, x)
    recorder.drain(10.0)
    # Its own capture may have observed nothing or something; what counts begins here.
    return run


def test_every_mode_counts_every_call_and_leaves_the_output_alone(warm, recorder, requests, definition, x):
    with torch.inference_mode():
        for _ in range(CALLS):
            output = observed(recorder, requests, warm, x)
        assert torch.equal(output, x * 2)
    sketch, rows = drained(recorder)
    once = definition(x * 2, 4)
    expected = once.copy()
    for _ in range(CALLS - 1):
        expected.merge(once)
    assert sketch.counts == expected.counts
    assert (sketch.channels.fires == expected.channels.fires).all()
    assert sketch.moments.rms == pytest.approx(expected.moments.rms, rel=1e-5)
    assert len(rows) == 4 * CALLS
    assert counters["inductor"]["cudagraph_skips"] == 0


def test_every_mode_follows_the_switch_to_the_other_bank(warm, recorder, requests, x):
    with torch.inference_mode():
        for calls in (2, 3, 1):
            for _ in range(calls):
                observed(recorder, requests, warm, x)
            sketch, _ = drained(recorder)
            assert sketch.counts.positions == calls * 4 * 33


def test_no_part_of_a_request_makes_the_host_wait(warm, recorder, requests, x):
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.inference_mode():
            for _ in range(CALLS):
                observed(recorder, requests, warm, x)
        sketch, _ = drained(recorder)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sketch.counts.requests == 4 * CALLS


def test_a_drain_in_another_thread_leaves_a_capture_whole(recorder, requests, tapped, capture, x):
    model, done, brought = tapped(CHANNELS), threading.Event(), []

    def drain():
        while not done.is_set():
            if reading := recorder.drain(0.001):
                brought.append(reading)

    with torch.inference_mode():
        observed(recorder, requests, model, x)
        thread = threading.Thread(target=drain)
        thread.start()
        try:
            for _ in range(20):
                with recorder.banks.quiet:
                    run = capture(model, x)
                observed(recorder, requests, run, x)
        finally:
            done.set()
            thread.join()
    if reading := recorder.drain(10.0):
        brought.append(reading)
    assert sum(reading.requests for reading in brought) == recorder.sampled
    assert recorder.guard.failures.total() == 0


def test_the_state_of_64_taps_of_4096_channels_takes_less_than_32_mib(recorder, cuda):
    for layer in range(64):
        tap = Tap(layer, "resid", f"blocks.{layer}", 4096)
        recorder.states[tap] = TapState(4096, recorder.slots, cuda)
    assert recorder.memory() < 32 * 2**20
