"""A range of the store judged by the reference of its model version, as the running sidecar judges its window."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sidecar.drift import DriftMonitor, Reference
from sidecar.export.activations import Watched
from sidecar.settings import DriftSettings
from sidecar.sketch import Reading, TapSketch
from sidecar.timeline import Subject, Timeline
from sidecar.types import Tap, TelemetryStatus


@dataclass(frozen=True, slots=True)
class Hindsight:
    """settings: with the folder in which reference and evidence are kept. baseline: of a model and version, or None."""

    settings: DriftSettings
    baseline: Callable[[str, str], Path | None]

    def watched(self, subject: Subject, sketches: Mapping[Tap, TapSketch]) -> Watched | None:
        """The version as if its window were the range; None where no reference is kept of it.

        Evidence and alarms are those that were kept last. What is made of single requests is not known.
        Raises BaselineError for a baseline that is damaged or of something else.
        """
        path = self.baseline(subject.model, subject.version)
        reference = Reference.load(path) if path else None
        timeline = Timeline(subject.taps, 1.0, 1, lambda: 0.0)
        # Of no request: what is made of single ones would be made of nothing.
        timeline.add(Reading(0.0, sketches, {}, 0))
        with TemporaryDirectory() as copied:
            # A monitor sets aside what it cannot use, and these files are the running sidecar's.
            if self.settings.state and self.settings.state.is_dir():
                shutil.copytree(self.settings.state, copied, dirs_exist_ok=True)
            monitor = DriftMonitor(
                subject.model,
                subject.version,
                subject.taps,
                self.settings.model_copy(update={"state": Path(copied)}),
                timeline,
                reference,
                np.random.default_rng(self.settings.seed),
            )
        if monitor.reference is None:
            return None
        status = TelemetryStatus(True)
        return Watched(
            subject.model, subject.version, lambda: False, lambda: status, 0.0, 0, timeline, monitor
        )
