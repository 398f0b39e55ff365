"""Capture: taps in the model's own graph, reduced where they stand, drained once a second."""

from sidecar.capture.drain import Drainer
from sidecar.capture.governor import Governor, Spending
from sidecar.capture.guard import Guard
from sidecar.capture.inputs import Reservoir
from sidecar.capture.instrument import observers
from sidecar.capture.observe import as_rows
from sidecar.capture.outputs import Outputs, logits_among
from sidecar.capture.prices import prices
from sidecar.capture.recorder import Recorder
from sidecar.capture.routes import ROUTE
from sidecar.capture.sampling import CHOICE, Choose
from sidecar.capture.taps import UNKNOWN_DIMENSION, Placement, choose, plan

__all__ = [
    "CHOICE",
    "ROUTE",
    "UNKNOWN_DIMENSION",
    "Choose",
    "Drainer",
    "Governor",
    "Guard",
    "Outputs",
    "Placement",
    "Recorder",
    "Reservoir",
    "Spending",
    "as_rows",
    "choose",
    "logits_among",
    "observers",
    "plan",
    "prices",
]
