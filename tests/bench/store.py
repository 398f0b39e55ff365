"""A week of panes of 64 taps with 4,096 channels: what they take on disk, what writing and asking cost."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sidecar.sketch import TapSketch
from sidecar.timeline import History, Pane, Retention, Store, Subject
from sidecar.types import Tap

TAPS, CHANNELS, POSITIONS, VARIANTS = 64, 4096, 256, 4
NOW = 1_750_000_000.0
LIVE_SECONDS = 1800.0
WEEK = 7 * 86_400.0
REPEATS = 5


def activations(rng: np.random.Generator) -> TapSketch:
    """Channels of different means and widths, a few of them spikes, as transformers have."""
    scale = np.exp(rng.normal(0, 0.5, CHANNELS))
    offset = rng.normal(0, 1, CHANNELS)
    spikes = rng.choice(CHANNELS, 6, replace=False)
    offset[spikes] = rng.uniform(10, 35, 6) * rng.choice([-1, 1], 6)
    x = rng.standard_normal((POSITIONS, CHANNELS)) * scale + offset
    return TapSketch.from_array(x.astype(np.float32), 2.0**-10, 32)


def fill(store: Store, subject: Subject) -> list[float]:
    """Write the panes of a week; CPU seconds of each of the last half hour, which are written as they would be live."""
    rng = np.random.default_rng(0)
    kinds = [{tap: activations(rng) for tap in subject.taps} for _ in range(VARIANTS)]

    def write(start: float, span: float) -> float:
        began = time.thread_time()
        sketches = kinds[int(start / 10) % VARIANTS]
        store.write(subject, Pane(start, span, sketches), {"evidence": np.zeros(TAPS)}, start + span)
        return time.thread_time() - began

    begin = NOW - LIVE_SECONDS
    for span, kept in ((3600.0, WEEK), (600.0, 86_400.0), (60.0, 10_800.0)):
        first = np.floor((NOW - kept) / 3600) * 3600
        for start in np.arange(first, np.floor(begin / span) * span, span):
            write(float(start), span)
    return [write(float(start), 10.0) for start in np.arange(begin, NOW, 10.0)]


def milliseconds(ask: Callable[[], object]) -> dict[str, float]:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        ask()
        times.append((time.perf_counter() - began) * 1e3)
    return {"median": median(times), "worst": max(times)}


def run() -> dict[str, Any]:
    subject = Subject(
        "bench", "1", tuple(Tap(layer, "resid", f"blocks.{layer}", CHANNELS) for layer in range(TAPS))
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.db"
        store = Store(path, Retention(10.0, 7.0, 4_000.0))
        costs = fill(store, subject)
        size = path.stat().st_size
        store.close()
        with History(path, dict).open() as recall:
            panes = recall.panes("bench", "1")
        print(len(panes), size / 1e6, sum(costs) / LIVE_SECONDS, median(costs), max(costs))
    return {}


if __name__ == "__main__":
    run()
