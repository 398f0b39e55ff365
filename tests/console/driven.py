"""A served version of the kept panes whose requests, and some of whose inputs, are known."""

from __future__ import annotations

import numpy as np
import pytest

from sidecar.errors import ModelError
from sidecar.export.activations import Watched
from sidecar.sketch import Peaks, Reading, TapSketch
from sidecar.timeline import Strongest, Timeline
from sidecar.types import KeptInput, TelemetryStatus, Tensor
from tests.console.kept import CHANNELS, NOW, TAPS

REQUESTS = 25
POSITIONS = 4


def image(number):
    return {"image": Tensor("FP32", np.linspace(0, number, 64, dtype=np.float32).reshape(1, 64))}


def tokens(number):
    ids = np.arange(number, number + POSITIONS).reshape(1, POSITIONS)
    return {"input_ids": Tensor("INT64", ids), "attention_mask": Tensor("INT64", np.ones_like(ids))}


def text(number):
    told = b"<b>!" if number else b"none"
    return {"text": Tensor("BYTES", np.array([[told]], dtype=np.object_))}


class Inputs:
    """A `types.Replay` of 25 inputs. Channel c of input i is i + c / 100 at its last position, and 0 before it.

    broken, empty: numbers of inputs that cannot be run again, and of those without any position.
    """

    batched, near_zero, words = True, 2.0**-10, {24: " twenty", 25: "-four"}

    def __init__(self, inputs=image, count=REQUESTS, broken=(), empty=()):
        self.passed_over = 2
        self._broken, self._empty = broken, empty
        self._kept = [KeptInput(f"r{number}", NOW - number, inputs(number), 1) for number in range(count)]

    def kept(self):
        return tuple(self._kept)

    def activation(self, tap, kept):
        number = int(kept.id[1:])
        if number in self._broken:
            raise ModelError("an input that was kept cannot be run again: no")
        found = np.zeros((1, 0 if number in self._empty else POSITIONS, tap.channels), np.float32)
        found[:, -1:] = number + np.arange(tap.channels, dtype=np.float32) / 100
        return found


def watched(replay=None, keep="hashed", requests=REQUESTS):
    """Request i, in a reading of its own, drove channel c of every tap to -(i + c)."""
    timeline, strongest = Timeline(TAPS, 10.0, 6, lambda: NOW), Strongest(TAPS, keep)
    for number in range(requests):
        seen = np.full((1, CHANNELS), number, np.float32)
        found = Peaks(np.zeros(CHANNELS, np.int32), -(number + np.arange(CHANNELS, dtype=np.float32)))
        reading = Reading(
            NOW, {tap: TapSketch.from_array(seen, 2.0**-10, 1) for tap in TAPS}, {}, 1,
            ids=[f"r{number}"], peaks=dict.fromkeys(TAPS, found),
        )  # fmt: skip
        timeline.add(reading)
        strongest.add(reading)
    return Watched(
        "digits", "1", lambda: True, lambda: TelemetryStatus(True), 1.0, 1,
        timeline, None, strongest=strongest, replay=replay,
    )  # fmt: skip


@pytest.fixture(scope="session")
def driven():
    return watched
