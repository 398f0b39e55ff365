"""Records a reference, then judges every observed request against it."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidecar.drift.effects import Cells, Weighted, divergences, largest_shift, signed_counts, worst_channels
from sidecar.drift.evidence import EDetector
from sidecar.drift.instability import instability
from sidecar.drift.reference import Reference, ReferenceBuilder
from sidecar.drift.scores import FEATURES, SCORES, Scorer, features, stack_rows
from sidecar.settings import DriftSettings
from sidecar.sketch import Reading
from sidecar.timeline import Timeline
from sidecar.types import Tap

AMPLE_REQUESTS = 5_000
"""Below it the bets give up so much for the reference's own sampling error that small drift waits."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LayerDrift:
    """One tap. Evidence in nats since the reference; everything else over `drift.window_seconds`.

    alarm_ordinals: the newest 100, counted in judged requests from 1. psi in nats, jensen_shannon 0..1,
    both less their no-drift value. mean_shift: of the request statistic that moved most, which is named by
    shifted_statistic ("" if none), in standard deviations of the reference's requests.
    worst_channels: (index, shift in the channel's standard deviations), largest first.
    headroom in doublings. Effect sizes are NaN, and worst_channels empty, without reference or requests.
    """

    tap: Tap
    evidence: float
    active: bool
    alarms: int
    alarm_ordinals: tuple[int, ...]
    psi: float
    jensen_shannon: float
    mean_shift: float
    shifted_statistic: str
    worst_channels: tuple[tuple[int, float], ...]
    absmax_growth: float
    headroom: float
    dead_channels: int
    dead_rate_bound: float
    nonfinite: int


@dataclass(frozen=True, slots=True)
class DriftState:
    """Everything drift has to say at one moment; never changes.

    model_evidence, alarm_level and layer_alarm_level in nats. layers: in the order of the taps.
    reference_small: the reference has fewer than 5,000 requests, so small drift takes longer to find.
    """

    reference_requests: int
    reference_ready: bool
    reference_small: bool
    judged_requests: int
    model_evidence: float
    alarm_level: float
    layer_alarm_level: float
    model_active: bool
    model_alarms: int
    model_alarm_ordinals: tuple[int, ...]
    layers: tuple[LayerDrift, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Judge:
    """A reference and what is worked out from it once."""

    reference: Reference
    scorer: Scorer
    cells: tuple[Cells, ...]
    features: npt.NDArray[np.float64]


class DriftMonitor:
    """`observe` is called by one thread, `state` by any. Readings are in `timeline` before they come here."""

    def __init__(
        self,
        model: str,
        version: str,
        taps: Sequence[Tap],
        settings: DriftSettings,
        timeline: Timeline,
        reference: Reference | None,
        rng: np.random.Generator,
    ) -> None:
        """Without a reference it is recorded first. Raises BaselineError for one of something else."""
        self._lock = threading.Lock()
        self._state: DriftState | None = None
        self._judge: _Judge | None = None
        self._taps = tuple(taps)
        self._window_seconds = settings.window_seconds
        self._timeline = timeline
        self._rng = rng
        self._builder = ReferenceBuilder(model, version, taps, settings.reference_requests)
        self._run_length = settings.requests_between_false_alarms
        wanted = [settings.reference_requests] * len(self._taps)
        self._detector = EDetector(len(SCORES), self._run_length, wanted)
        if reference:
            reference.check(model, taps)
            self._judge_by(reference.arranged(taps))

    def observe(self, reading: Reading) -> None:
        """Add the reading to the reference while that is recorded, judge its requests afterwards."""
        with self._lock:
            self._state = None
            if self._judge:
                # The share of those sampled for their route's sake changes with the rate, as drift would.
                rows = stack_rows(reading.rows, self._taps)[:, reading.common]
                self._detector.update(self._judge.scorer.p_values(rows, self._rng))
            else:
                self._builder.add(reading)
                if self._builder.complete:
                    self._judge_by(self._builder.build())
                    del self._builder

    def state(self) -> DriftState:
        """As of the end of the last `observe`; worked out by the first who asks, because few ask."""
        with self._lock:
            if self._state is None:
                self._state = self._snapshot()
            return self._state

    def evidence(self) -> npt.NDArray[np.float64]:
        """float64[taps], of each layer in nats, without the rest of the state."""
        with self._lock:
            return self._detector.layer_evidence

    @property
    def reference(self) -> Reference | None:
        """What requests are judged by; None while it is recorded."""
        return self._judge.reference if self._judge else None

    def _judge_by(self, reference: Reference) -> None:
        if reference.requests < AMPLE_REQUESTS:
            _log.warning(
                "the drift reference has %d requests; with fewer than %d small drift takes longer to find",
                reference.requests,
                AMPLE_REQUESTS,
            )
        cells = tuple(Cells.equal_mass(signed_counts(sketch)) for sketch in reference.sketches)
        scorer = Scorer(reference.rows[:, reference.common])
        self._judge = _Judge(reference, scorer, cells, features(reference.rows))
        self._detector = EDetector(len(SCORES), self._run_length, scorer.calibration_requests)

    def _snapshot(self) -> DriftState:
        detector, reference = self._detector, self.reference
        return DriftState(
            reference_requests=reference.requests if reference else self._builder.requests,
            reference_ready=reference is not None,
            reference_small=reference is not None and reference.requests < AMPLE_REQUESTS,
            judged_requests=detector.judged,
            model_evidence=detector.model_evidence,
            alarm_level=detector.alarm_level,
            layer_alarm_level=detector.layer_alarm_level,
            model_active=detector.model.active,
            model_alarms=detector.model.alarms,
            model_alarm_ordinals=tuple(detector.model.ordinals),
            layers=tuple(self._layer(index) for index in range(len(self._taps))),
        )

    def _layer(self, index: int) -> LayerDrift:
        tap, latch = self._taps[index], self._detector.layers[index]
        window = self._timeline.window(self._window_seconds, tap)
        psi = js = shift = math.nan
        column = -1
        worst: list[tuple[int, float]] = []
        expected = None
        if self._judge:
            reference = self._judge.reference
            expected = reference.sketches[index]
            psi, js = divergences(self._judge.cells[index], reference.scales[index], expected, window)
            rows = self._timeline.rows(self._window_seconds, tap)
            seen = Weighted(features(rows.values), rows.weights)
            column, shift = largest_shift(Weighted(self._judge.features[index], reference.weights), seen)
            worst = worst_channels(expected, window)
        signs = instability(window, expected)
        return LayerDrift(
            tap=tap,
            evidence=float(self._detector.layer_evidence[index]),
            active=latch.active,
            alarms=latch.alarms,
            alarm_ordinals=tuple(latch.ordinals),
            psi=psi,
            jensen_shannon=js,
            mean_shift=shift,
            shifted_statistic=FEATURES[column] if column >= 0 else "",
            worst_channels=tuple(worst),
            absmax_growth=signs.absmax_growth,
            headroom=signs.headroom,
            dead_channels=signs.dead_channels,
            dead_rate_bound=signs.dead_rate_bound,
            nonfinite=signs.nonfinite,
        )
