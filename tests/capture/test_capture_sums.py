"""Integer sums over many batches are exact, whichever rows of a batch are observed."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import torch

from sidecar.capture.observe import OpState, bind
from sidecar.capture.state import TapState
from sidecar.sketch import TapSketch
from sidecar.types import Tap

BATCHES, CHUNK = 10_000, 500
ROWS, POSITIONS, CHANNELS = 6, 5, 37
NEAR_ZERO = 2.0**-10
SPECIAL = np.array([0, -0.0, np.nan, np.inf, -np.inf, 1e-40, -6, 2.0**-10, 7e4, 3e38], np.float32)


def integers(sketch):
    channels = sketch.channels
    return [astuple(sketch.counts), channels.positions, *map(list, (channels.fires, channels.outliers))]


def test_ten_thousand_batches_of_sampled_unsampled_and_padding_rows_add_up_exactly(
    make_recorder, make_request
):
    rng = np.random.default_rng(11)
    tap = Tap(0, "resid", "blocks.0", CHANNELS)
    recorder = make_recorder(slots=4 * CHUNK, max_rows=ROWS)
    state = TapState(CHANNELS, 4 * CHUNK, torch.device("cpu"))
    recorder.states = {tap: state}
    held = state.held
    kept = OpState(recorder.row_slot, 1, recorder.bank, *held, state.slots, NEAR_ZERO)
    observe = bind(torch.device("cpu"), -1, kept)
    pool = rng.normal(0, 3, (997, POSITIONS, CHANNELS)).astype(np.float32)
    special = rng.random(pool.shape) < 0.002
    pool[special] = rng.choice(SPECIAL, special.sum())

    for _ in range(BATCHES // CHUNK):
        observed, requests = [], 0
        for _ in range(CHUNK):
            sampled = rng.random(int(rng.integers(1, 4))) < 0.6
            sizes = rng.integers(1, 3, len(sampled))
            batch = [
                make_request(0, rows=int(size), sidecar_sample=bool(wanted))
                for size, wanted in zip(sizes, sampled, strict=True)
            ]
            chosen = rng.integers(0, len(pool), ROWS)
            if recorder.open(batch):
                observe(torch.from_numpy(pool[chosen]))
                recorder.close()
            observed += list(chosen[: sizes.sum()][np.repeat(sampled, sizes)])
            requests += int(sampled.sum())
        found = recorder.drain(0.0).sketches[tap]
        expected = TapSketch.from_array(pool[observed], NEAR_ZERO, requests)
        assert integers(found) == integers(expected)
        assert np.array_equal(found.histogram.counts, expected.histogram.counts)
    assert not any(recorder.guard.failures.values())
    assert not any(recorder.dropped.values())
