"""Runs the same requests through every checkpoint of a model, and keeps what was seen by training step."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from sidecar import runtime
from sidecar.baseline.recording import read_requests, replay
from sidecar.errors import ConfigError
from sidecar.observation import observe
from sidecar.runtime.trial import warm_up
from sidecar.settings import ModelSettings, Settings
from sidecar.sketch import TapSketch
from sidecar.timeline import Retention
from sidecar.timeline.steps import recording
from sidecar.types import Clock, Tap

_SUFFIX = ".safetensors"


def find_checkpoints(folder: Path) -> dict[int, Path]:
    """Training step -> weights, lowest first: `*30000*.safetensors`, or `*30000*/model.safetensors`.

    The step is the last number in the name. Raises ConfigError for a folder with no such file, a name without a
    number, or two of one step.
    """
    named = [(path.stem, path) for path in sorted(folder.glob(f"*{_SUFFIX}"))]
    named += [(path.parent.name, path) for path in sorted(folder.glob(f"*/model{_SUFFIX}"))]
    if not named:
        raise ConfigError(f"{folder} holds no checkpoints, neither *{_SUFFIX} nor */model{_SUFFIX}")
    found: dict[int, Path] = {}
    for name, path in named:
        numbers = re.findall(r"\d+", name)
        if not numbers:
            raise ConfigError(f"{path} has no training step in its name, must have one, such as step-30000")
        if (step := int(numbers[-1])) in found:
            raise ConfigError(f"{found[step]} and {path} are both of step {step}")
        found[step] = path
    return dict(sorted(found.items()))


def evaluate_checkpoints(
    settings: ModelSettings,
    everything: Settings,
    checkpoints: Mapping[int, Path],
    requests: Path,
    store: Path,
    clock: Clock,
) -> Iterator[int]:
    """Run the requests of an npz file through each checkpoint; gives each step once its pane is kept.

    Raises ConfigError for a model that takes no weights or a file that does not fit it, ModelError for a checkpoint
    that cannot be loaded or observed, StoreError when a pane cannot be kept.
    """
    if settings.source is None:
        raise ConfigError(
            f"model {settings.name} has no source, so it cannot take the weights of checkpoints"
        )
    retention = Retention(
        everything.timeline.pane_seconds, everything.store.keep_days, everything.store.max_megabytes
    )
    with recording(store, settings.name, settings.version, retention=retention, clock=clock) as steps:
        for step, weights in checkpoints.items():
            at_step = settings.model_copy(update={"weights": weights, "baseline": None})
            steps.write(step, _seen(at_step, everything, requests, clock))
            yield step


def _seen(settings: ModelSettings, everything: Settings, path: Path, clock: Clock) -> dict[Tap, TapSketch]:
    """What all the requests leave at each tap."""
    model = runtime.load(settings)
    requests = read_requests(path, model, batched=settings.batching.max_rows > 0)
    warm_up(model, settings)
    plan = observe(model, settings, everything, lambda _: None, clock)
    seen = {tap: TapSketch.empty(tap.channels) for tap in plan.taps}
    for reading in replay(model, plan, requests, max(settings.batching.max_rows, 1)):
        for tap, sketch in reading.sketches.items():
            seen[tap].merge(sketch)
    return seen
