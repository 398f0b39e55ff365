"""Records a baseline: runs a file of requests through a model and keeps what its activations looked like."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from sidecar import runtime
from sidecar.drift import Reference, ReferenceBuilder
from sidecar.errors import ConfigError
from sidecar.observation import Observation, observe
from sidecar.runtime import Runtime
from sidecar.runtime.trial import warm_up
from sidecar.settings import ModelSettings, Settings
from sidecar.sketch import Reading
from sidecar.types import DATATYPES, Clock, InferRequest, Tensor

# Readings of a baseline: enough of them to see how far chunks of the same traffic lie apart.
BASELINE_READINGS = 32


def record_baseline(settings: ModelSettings, everything: Settings, path: Path, clock: Clock) -> Reference:
    """Run the requests of an npz file, one array an input with a request in each row, and build a reference.

    Raises ConfigError for a file that does not fit the model's inputs, ModelError when it cannot be observed.
    """
    model = runtime.load(settings)
    requests = read_requests(path, model, batched=settings.batching.max_rows > 0)
    # The baseline that the settings name may be the one that is about to be written.
    settings = settings.model_copy(update={"baseline": None})
    warm_up(model, settings)
    plan = observe(model, settings, everything, lambda _: None, clock)
    builder = ReferenceBuilder(
        settings.name, settings.version, plan.taps, len(requests), everything.drift.stratify_by
    )
    for reading in replay(model, plan, requests, max(settings.batching.max_rows, 1)):
        builder.add(reading)
    return builder.build()


def replay(
    model: Runtime, plan: Observation, requests: Sequence[InferRequest], max_rows: int
) -> Iterator[Reading]:
    """Run requests through the instrumented variant, all of them observed, and give what was seen in parts."""
    step = min(max_rows, plan.recorder.slots)
    chunk = max(len(requests) // BASELINE_READINGS, 1)
    pending = 0
    for start in range(0, len(requests), step):
        batch = requests[start : start + step]
        plan.recorder.open(batch, always=True)
        plan.recorder.answered(model.instrumented(runtime.concatenate([request.inputs for request in batch])))
        plan.recorder.close()
        pending += len(batch)
        if pending >= min(chunk, plan.recorder.slots - step) or start + step >= len(requests):
            if reading := plan.recorder.drain(0.0):
                yield reading
            pending = 0


def read_requests(path: Path, model: Runtime, *, batched: bool) -> list[InferRequest]:
    """The requests of an npz file. Raises ConfigError where they are none for the model."""
    try:
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, NpzFile):
                raise ValueError("it holds a single array")
            arrays = dict(stored)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} is not an npz file of arrays: {error}") from error
    names = [spec.name for spec in model.inputs]
    if sorted(arrays) != sorted(names):
        raise ConfigError(f"{path} holds {sorted(arrays)}, the model takes {names}")
    for spec in model.inputs:
        array = arrays[spec.name]
        shape = (-1, *spec.shape[batched:])
        fits = len(array.shape) == len(shape) and all(
            want in (-1, size) for want, size in zip(shape, array.shape, strict=True)
        )
        if array.dtype != DATATYPES[spec.datatype] or not fits:
            raise ConfigError(
                f"{path}: {spec.name} is {array.dtype}{list(array.shape)}, "
                f"must be {DATATYPES[spec.datatype]}{list(shape)}"
            )
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or not all(counts.values()):
        raise ConfigError(
            f"{path} holds {counts} requests, must hold as many, and at least one, for each input"
        )

    def request(row: int) -> InferRequest:
        part = slice(row, row + 1) if batched else row
        inputs = {spec.name: Tensor(spec.datatype, arrays[spec.name][part]) for spec in model.inputs}
        return InferRequest(str(row), inputs, rows=1)

    return [request(row) for row in range(min(counts.values()))]
