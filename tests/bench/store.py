"""A week of panes of 64 taps with 4,096 channels: what they take on disk, what writing and asking cost."""

import asyncio
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sidecar.baseline.replicas import fetch
from sidecar.console.api import Api, Sources, as_json
from sidecar.console.elsewhere import Elsewhere
from sidecar.settings import ConsoleSettings
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


def questions() -> dict[str, tuple[str, dict[str, object]]]:
    """Name -> method and fields, of the questions that a page asks, over all of the week where it can."""
    week = {"begin": NOW - WEEK}
    sides = {**week, "end": NOW - WEEK / 2, "other_begin": NOW - WEEK / 2, "other_end": NOW}
    return {
        "taps": ("ListTaps", {}),
        "layer, a week": ("GetLayer", {"layer": 5, **week}),
        "layer, ten minutes": ("GetLayer", {"layer": 5}),
        "histogram, a week": ("GetHistogram", {"layer": 5, **week}),
        "1,000 neurons, a week": ("ListNeurons", {"layer": 5, "order": "absmax", "limit": 1000, **week}),
        "neuron, 300 points": ("GetNeuron", {"layer": 5, "channel": 17}),
        "neuron, every pane": ("GetNeuron", {"layer": 5, "channel": 17, "points": 1000}),
        "matrix, 300 columns": ("GetMatrix", {"statistic": "kurtosis"}),
        "matrix, every pane": ("GetMatrix", {"statistic": "kurtosis", "columns": 1000}),
        "half weeks compared": ("Compare", sides),
    }


def nowhere() -> Elsewhere:
    """No baseline and no replica is named."""
    return Elsewhere(ConsoleSettings(), fetch, time.monotonic)


async def answer(path: Path) -> dict[str, dict[str, float]]:
    """Question -> median and worst milliseconds, median CPU milliseconds, kilobytes of JSON."""
    sources = Sources(History(path, dict), [], None, nowhere())
    api = Api(sources, ConsoleSettings(budget=64.0), lambda: NOW)
    found = {}
    for name, (method, fields) in questions().items():
        wall, cpu, size = [], [], 0
        for _ in range(REPEATS):
            began = time.perf_counter(), time.process_time()
            size = len(await api.ask(method, fields, as_json))
            wall.append((time.perf_counter() - began[0]) * 1e3)
            cpu.append((time.process_time() - began[1]) * 1e3)
        found[name] = {"ms": median(wall), "worst_ms": max(wall), "cpu_ms": median(cpu), "kb": size / 1e3}
    api.close()
    return found


def run() -> dict[str, Any]:
    taps = tuple(Tap(layer, "resid", f"blocks.{layer}", CHANNELS) for layer in range(TAPS))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.db"
        store = Store(path, Retention(10.0, 7.0, 4_000.0))
        costs = fill(store, Subject("bench", "1", taps))
        store.close()
        size = path.stat().st_size / 1e6
        answers = asyncio.run(answer(path))
    share = sum(costs) / LIVE_SECONDS
    load = os.getloadavg()[0]
    print(f"a week of panes, {TAPS} taps of {CHANNELS} channels (load {load:.1f} on {os.cpu_count()} cores):")
    print(f"  file {size:,.0f} MB; writing takes {share:.2%} of a core")
    print(f"  {'question':<24}{'ms':>8}{'worst':>8}{'CPU ms':>8}{'kB':>8}")
    for name, one in answers.items():
        print(f"  {name:<24}{one['ms']:8.0f}{one['worst_ms']:8.0f}{one['cpu_ms']:8.0f}{one['kb']:8.0f}")
    return {
        "taps": TAPS,
        "channels": CHANNELS,
        "load": load,
        "file_mb": size,
        "write_core_share": share,
        "write_seconds": {"median": median(costs), "worst": max(costs)},
        "answers": answers,
        "worst_answer_ms": max(one["ms"] for one in answers.values()),
    }
