"""Drift against a reference: evidence that alarms, effect sizes that people read, signs of instability."""

from sidecar.drift.evidence import EDetector
from sidecar.drift.monitor import DriftMonitor
from sidecar.drift.reference import Reference, ReferenceBuilder
from sidecar.drift.state import DriftState, LayerDrift

__all__ = ["DriftMonitor", "DriftState", "EDetector", "LayerDrift", "Reference", "ReferenceBuilder"]
