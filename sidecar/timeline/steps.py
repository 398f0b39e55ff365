"""The step axis: panes by training step instead of by time, written by a training loop or an evaluation."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt

from sidecar.errors import StoreError
from sidecar.sketch import TapSketch
from sidecar.timeline.schema import Subject
from sidecar.timeline.store import Retention, Store
from sidecar.timeline.timeline import Pane
from sidecar.types import Clock, Tap

NEAR_ZERO = 2.0**-10
UNBOUNDED = Retention(pane_seconds=10.0, keep_days=7.0, max_megabytes=1e6)


class Step:
    """One training step's activations, gathered from as many batches as one likes.

    near_zero: |x| at or below it is near zero and does not fire.
    """

    def __init__(self, near_zero: float) -> None:
        self.sketches: dict[Tap, TapSketch] = {}
        self._near_zero = near_zero

    def add(self, layer: int, site: str, x: npt.NDArray[Any], module: str = "") -> None:
        """x: float16 or float32 [requests, ..., channels], the activation of the module in that layer.

        Raises SketchError when its channels are not those of the batches before.
        """
        sketch = TapSketch.from_array(x, self._near_zero, x.shape[0])
        tap = Tap(layer, site, module or f"{layer}.{site}", x.shape[-1])
        others = [seen for seen in self.sketches if (seen.layer, seen.site) == (layer, site)]
        if others:
            self.sketches[others[0]].merge(sketch)
        else:
            self.sketches[tap] = sketch


class Steps:
    """Writes the steps of one model version; made by `recording`."""

    def __init__(self, store: Store, model: str, version: str, near_zero: float, clock: Clock) -> None:
        self._store, self._model, self._version = store, model, version
        self._near_zero, self._clock = near_zero, clock

    @contextmanager
    def step(self, number: int) -> Iterator[Step]:
        """What the block adds is kept as step `number` when it ends, in place of what was kept of that step.

        Raises StoreError when it cannot be written; nothing is written if the block raises.
        """
        step = Step(self._near_zero)
        yield step
        self.write(number, step.sketches)

    def write(self, number: int, sketches: Mapping[Tap, TapSketch]) -> None:
        """Keep sketches made elsewhere as step `number`. Raises StoreError."""
        subject = Subject(self._model, self._version, tuple(sorted(sketches)))
        try:
            self._store.write(subject, Pane(float(number), 0.0, sketches), {}, self._clock())
        except sqlite3.Error as error:
            raise StoreError(f"step {number} cannot be kept in {self._store.path}: {error}") from error


@contextmanager
def recording(
    path: Path,
    model: str,
    version: str = "1",
    *,
    retention: Retention = UNBOUNDED,
    near_zero: float = NEAR_ZERO,
    clock: Clock = time.time,
) -> Iterator[Steps]:
    """Keep steps of a model in the store at `path`, which a sidecar may write and serve at the same time.

    >>> with recording(path, "gpt2", "run-7") as run:  # doctest: +SKIP
    ...     for number, batch in enumerate(batches):
    ...         loss = train(batch)
    ...         if number % 1000 == 0:
    ...             with run.step(number) as step:
    ...                 step.add(0, "resid", hidden_states[0].float().cpu().numpy())

    Raises StoreError, or SketchError for a store of another format.
    """
    try:
        store = Store(path, retention)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"the store {path} cannot be opened: {error}") from error
    try:
        yield Steps(store, model, version, near_zero, clock)
    finally:
        store.close()
