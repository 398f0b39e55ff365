"""The first runs of a model, where it shows whether its settings fit it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import product
from typing import TypeVar

from sidecar.errors import ModelError
from sidecar.runtime import Runtime, padding
from sidecar.runtime.examples import UNKNOWN_SIZE
from sidecar.settings import ModelSettings
from sidecar.types import Tensor

MODEL_FAULTS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)
"""What a model raises that does not fit its settings."""

T = TypeVar("T")


def attempt(
    settings: ModelSettings, run: Callable[[Mapping[str, Tensor]], T], batch: Mapping[str, Tensor]
) -> T:
    """`run(batch)`. Raises ModelError that names the shapes of `batch` for what the model raised."""
    try:
        return run(batch)
    except MODEL_FAULTS as error:
        shapes = ", ".join(f"{name} {list(tensor.array.shape)}" for name, tensor in batch.items())
        raise ModelError(f"model {settings.name} does not run on {shapes}: {error}") from error


def batch_sizes(settings: ModelSettings) -> list[int]:
    """Rows of the smallest and of the largest batch."""
    return sorted({1, max(settings.batching.max_rows, 1)})


def warm_up(model: Runtime, settings: ModelSettings) -> float:
    """Run the smallest and the largest batch once, in each length that requests are padded to; seconds of the largest.

    Raises ModelError or InferenceError when the settings do not fit the model.
    """
    model.prepare_thread()
    took = 0.0
    ragged = settings.ragged
    # Not buckets alone, because an output may be as long as a single bucket by chance.
    lengths = (UNKNOWN_SIZE, *ragged.buckets) if ragged else (UNKNOWN_SIZE,)
    for rows, length in product(batch_sizes(settings), lengths):
        batch = model.example(rows, length)
        started = time.perf_counter()
        outputs = attempt(settings, model.plain, batch)
        took = time.perf_counter() - started
        if ragged:
            padding.check(outputs, length, ragged)
    return took
