"""What judging costs: the whole of `DriftMonitor.observe` at 64 taps, on one core."""

import time
from statistics import median

import numpy as np

from sidecar.drift import DriftMonitor
from sidecar.settings import DriftSettings
from sidecar.sketch import PROJECTIONS, OutputRows, Reading, RequestRows, TapSketch
from sidecar.timeline import Timeline
from sidecar.types import Tap

TAPS, CHANNELS, CLASSES, REFERENCE_REQUESTS = 64, 4, 10, 5_000
ROUNDS = 5


def microseconds() -> dict[str, float]:
    """CPU time a request, by the size of the reading that brings it; median of rounds."""
    rng = np.random.default_rng(0)
    taps = tuple(Tap(layer, "resid", f"blocks.{layer}", CHANNELS) for layer in range(TAPS))
    timeline = Timeline(taps, 10.0, 6, lambda: 0.0)
    settings = DriftSettings(reference_requests=REFERENCE_REQUESTS)
    monitor = DriftMonitor("m", "1", taps, settings, timeline, None, rng)
    monitor.observe(reading(taps, REFERENCE_REQUESTS, rng))
    cost = {}
    for size, readings in ((1, 200), (10, 100), (100, 10), (1_000, 2)):
        took = []
        for _ in range(ROUNDS):
            # New ones each time: requests that come again would be drift.
            brought = [reading(taps, size, rng) for _ in range(readings)]
            started = time.thread_time()
            for each in brought:
                monitor.observe(each)
            took.append((time.thread_time() - started) / (size * readings))
        cost[f"readings of {size}"] = round(1e6 * median(took), 1)
    return cost


def reading(taps: tuple[Tap, ...], requests: int, rng: np.random.Generator) -> Reading:
    """Requests that differ as real ones do: every statistic varies, and taps go together by half."""
    common = rng.normal(size=(requests, 5))
    rows = {}
    for tap in taps:
        normal = (common + rng.normal(size=(requests, 5))) / np.sqrt(2)
        columns = [
            normal[:, 0], np.exp(0.1 * normal[:, 1]), 5 * np.exp(0.1 * normal[:, 2]), 0.3 + 0.05 * normal[:, 3],
            3 * np.exp(0.2 * np.abs(normal[:, 4])), np.zeros(requests),
        ]  # fmt: skip
        projections = rng.normal(size=(requests, PROJECTIONS)).astype(np.float32)
        rows[tap] = RequestRows(np.stack(columns, axis=1), projections=projections)
    logits = 3 * rng.normal(size=(requests, CLASSES))
    ordered = np.sort(logits, axis=1)
    outputs = OutputRows(
        np.log(np.exp(logits).sum(axis=1)), ordered[:, -1] - ordered[:, -2], logits.argmax(axis=1), logits
    )
    sketches = {tap: TapSketch.empty(CHANNELS) for tap in taps}
    return Reading(0.0, sketches, rows, requests, outputs=outputs)
