"""What a tap costs, measured here: the observe op on each activation beside one run of the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from sidecar import capture, runtime
from sidecar.capture.prices import op_seconds
from sidecar.capture.taps import channel_dimension
from sidecar.runtime.trial import attempt, warm_up
from sidecar.settings import CaptureSettings, ModelSettings
from sidecar.types import TapPoint

_REPEATS = 7


@dataclass(frozen=True, slots=True)
class ModuleCost:
    """shape: of one request's activation. seconds: of one request's tap. share: of the model's time."""

    module: str
    shape: tuple[int, ...]
    seconds: float
    share: float
    chosen: bool


def modules(settings: ModelSettings, capture_settings: CaptureSettings) -> list[ModuleCost]:
    """Every tap point that gives a floating-point activation, in the order in which they run.

    Measured on the largest batch and divided by its rows. Raises ConfigError or ModelError.
    """
    model = runtime.load(settings)
    warm_up(model, settings)
    points = {point.name: point for point in model.tap_points()}
    chosen = capture.choose(list(points.values()), settings.taps)
    rows = max(settings.batching.max_rows, 1)
    example = model.example(rows)
    shapes = attempt(settings, lambda batch: model.activation_shapes(list(points), batch), example)
    whole = _typical(lambda: model.plain(example))
    found = []
    for name, shape in shapes.items():
        seconds = _tap_seconds(points[name], shape, rows, capture_settings)
        one_request = shape[1:] if shape[0] == rows else shape
        found.append(ModuleCost(name, one_request, seconds / rows, seconds / whole, points[name] in chosen))
    return found


def _tap_seconds(point: TapPoint, shape: tuple[int, ...], rows: int, settings: CaptureSettings) -> float:
    dimension = channel_dimension(point, shape)
    return op_seconds(shape, dimension, rows, settings.near_zero, torch.device("cpu"))


def _typical(run: Callable[[], object]) -> float:
    """Median seconds of a call, the first one left out."""
    run()
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return median(times)
