"""Capture: taps in the model's own graph, reduced where they stand, drained once a second."""

from sidecar.capture.drain import Drainer
from sidecar.capture.governor import Governor, Spending
from sidecar.capture.guard import Guard
from sidecar.capture.instrument import Shapes, install
from sidecar.capture.recorder import Recorder
from sidecar.capture.sampling import CHOICE
from sidecar.capture.taps import choose, describe, trial_shapes

__all__ = [
    "CHOICE",
    "Drainer",
    "Governor",
    "Guard",
    "Recorder",
    "Shapes",
    "Spending",
    "choose",
    "describe",
    "install",
    "trial_shapes",
]
