"""Records a reference, then judges every observed request against it."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidecar.drift.between import between_at_taps, of_channel_means
from sidecar.drift.causes import Cause, Requests, Suspect, cause, first_suspect, shown
from sidecar.drift.comparison import expected_of
from sidecar.drift.effects import worst_channels
from sidecar.drift.evidence import ACROSS, EDetector
from sidecar.drift.frechet import Gaussians
from sidecar.drift.groups import Groups, class_shares
from sidecar.drift.instability import AcrossLayers, instability
from sidecar.drift.judge import Judge
from sidecar.drift.keeping import Keeping
from sidecar.drift.nodrift import NoDrift
from sidecar.drift.projected import Projected
from sidecar.drift.recent import Described, Recent
from sidecar.drift.reference import Reference, ReferenceBuilder
from sidecar.drift.scores import FEATURES, SCORES, stack_projections, stack_rows
from sidecar.drift.sizes import EffectSizes, Expected, effect_sizes
from sidecar.drift.snapshot import snapshot
from sidecar.drift.space import Projections
from sidecar.drift.state import DriftState, LayerDrift, OutputDrift
from sidecar.drift.strata import PREDICTED_CLASS, Strata, labels
from sidecar.errors import BaselineError
from sidecar.settings import DriftSettings
from sidecar.sketch import Reading, TapSketch
from sidecar.timeline import Timeline
from sidecar.types import Tap

AMPLE_REQUESTS = 5_000
"""Below it the bets give up so much for the reference's own sampling error that small drift waits."""

KEEP_SECONDS = 60.0
"""How much evidence a crash may cost."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Judge:
    """A reference and what is worked out from it once."""

    reference: Reference
    strata: Strata
    evidence: Judge
    expected: tuple[Expected, ...]
    gaussians: Gaussians


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
        """Without a reference it is recorded first, unless one was kept.

        Raises BaselineError for a reference of something else.
        """
        self._lock = threading.Lock()
        self._state: DriftState | None = None
        self._judge: _Judge | None = None
        self._model, self._version, self._taps = model, version, tuple(taps)
        self._window_seconds = settings.window_seconds
        self._keep_ids = settings.keep_request_ids
        self._timeline = timeline
        self._recent = Recent(taps)
        self._projected = Projected()
        self._rng = rng
        self._stratify_by = settings.stratify_by
        self._builder = ReferenceBuilder(
            model, version, taps, settings.reference_requests, settings.stratify_by
        )
        self._run_length = settings.requests_between_false_alarms
        wanted = np.full((1, len(self._taps) + ACROSS), settings.reference_requests)
        self._detector = EDetector([len(SCORES)] * wanted.size, self._run_length, wanted)
        self._keeping = Keeping(settings.state, model, version) if settings.state else None
        self._kept_at = math.inf
        self._reference_kept = True
        reference = reference or self._kept(model)
        if reference:
            reference.check(model, taps, settings.stratify_by)
            self._judge_by(reference.arranged(taps))

    def _kept(self, model: str) -> Reference | None:
        kept = self._keeping.reference() if self._keeping else None
        if not self._keeping or not kept:
            return None
        try:
            kept.check(model, self._taps, self._stratify_by)
        except BaselineError as error:
            self._keeping.set_aside(error)
            return None
        return kept

    def observe(self, reading: Reading) -> None:
        """Add the reading to the reference while that is recorded, judge its requests afterwards."""
        with self._lock:
            self._state = None
            projections = stack_projections(reading.rows, self._taps)
            self._projected.add(projections)
            if self._judge:
                self._update(self._judge, reading, projections)
                self._kept_at = min(self._kept_at, reading.at)
                if reading.at >= self._kept_at + KEEP_SECONDS:
                    self._keep(reading.at)
            else:
                self._builder.add(reading)
                if self._builder.complete:
                    self._judge_by(self._builder.build())
                    del self._builder
                    self._reference_kept = False
                    self._keep(reading.at)

    def _update(self, judge: _Judge, reading: Reading, projections: Projections) -> None:
        # The share of those sampled for their route's sake changes with the rate, as drift would.
        common = reading.common
        rows = stack_rows(reading.rows, self._taps)[:, common]
        outputs = reading.outputs.among(common) if reading.outputs else None
        strata = judge.strata.numbers(labels(reading, self._stratify_by)[common])
        distances = judge.reference.space.distances(projections[:, common])
        judge.evidence.update(rows, outputs, strata, self._rng, distances)

    def keep(self) -> None:
        """Write reference and evidence down, where the settings name a folder; called when the model stops.

        Raises BaselineError when it cannot be written.
        """
        with self._lock:
            self._keep(self._kept_at)

    def _keep(self, at: float) -> None:
        # Before it is written, so that a full disk costs one attempt a minute.
        self._kept_at = at
        if self._keeping and self._judge:
            if not self._reference_kept:
                self._keeping.keep_reference(self._judge.reference)
                self._reference_kept = True
            self._keeping.keep(self._judge.evidence, self._judge.reference, self._rng)

    def state(self, pace: Callable[[], None] = lambda: None) -> DriftState:
        """As of the end of the last `observe`; worked out by the first who asks, because few ask.

        pace: called between the steps of that, so that it can be done beside something that must not wait.
        """
        with self._lock:
            if self._state is None:
                self._state = self._snapshot(pace)
            return self._state

    def snapshot(self, min_requests: int = 1) -> Reference:
        """The window as a baseline, to compare with another. Raises BaselineError while it holds fewer requests."""
        reference = self.reference
        nodrift = reference.nodrift if reference else [NoDrift.unknown()] * len(self._taps)
        return snapshot(
            self._model, self._version, self._taps,
            self._timeline, self._window_seconds, nodrift, self._stratify_by, min_requests,
        )  # fmt: skip

    @property
    def alarm_ordinals(self) -> tuple[int, ...]:
        """Of the model's newest alarms, as in the state, which takes longer to work out."""
        with self._lock:
            return tuple(self._detector.model.ordinals)

    def evidence(self) -> npt.NDArray[np.float64]:
        """float64[taps], of each layer in nats, without the rest of the state."""
        with self._lock:
            return self._detector.layer_evidence[: len(self._taps)]

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
        expected = expected_of(reference)
        common = reference.common
        outputs = reference.outputs.among(common) if reference.outputs else None
        strata = Strata(reference.labels[common])
        numbers = strata.numbers(reference.labels[common])
        by_class = self._stratify_by == PREDICTED_CLASS
        rows = reference.rows[:, common]
        distances = reference.distances[:, common]
        evidence = Judge(
            rows, outputs, numbers, len(strata), self._run_length, by_class=by_class, distances=distances
        )
        self._judge = _Judge(reference, strata, evidence, expected, Gaussians.of(reference.space))
        self._detector = evidence.detector
        if self._keeping:
            self._keeping.resume(evidence, reference, self._rng)

    def _snapshot(self, pace: Callable[[], None]) -> DriftState:
        detector, reference = self._detector, self.reference
        windows = {}
        for tap in self._taps:
            windows[tap] = self._timeline.window(self._window_seconds, tap)
            pace()
        readings = self._timeline.readings(self._window_seconds)
        seen = self._recent.described(readings)
        pace()
        layers = self._layers(list(windows.values()), seen, pace)
        return DriftState(
            reference_requests=reference.requests if reference else self._builder.requests,
            reference_ready=reference is not None,
            reference_small=reference is not None and reference.requests < AMPLE_REQUESTS,
            reference_created=reference.created_at if reference else math.nan,
            reference_widening=detector.widening if reference else math.nan,
            judged_requests=detector.judged,
            window_seconds=self._window_seconds,
            window_requests=len(seen),
            model_evidence=detector.model_evidence,
            alarm_level=detector.alarm_level,
            layer_alarm_level=detector.layer_alarm_level,
            model_active=detector.model.active,
            model_alarms=detector.model.alarms,
            model_alarm_ordinals=tuple(detector.model.ordinals),
            layers=layers,
            across=AcrossLayers.of(windows),
            cause=self._cause(layers, readings, seen),
            output=self._output(readings),
            direction_evidence=float(detector.layer_evidence[-ACROSS:].max()),
            strata=self._judge.strata.names if self._judge else (),
        )

    def _output(self, readings: Sequence[Reading]) -> OutputDrift | None:
        reference = self.reference
        if not reference or not reference.outputs:
            return None
        beyond = slice(len(self._taps), -ACROSS)
        latches = self._detector.layers[beyond]
        predicted = [one.outputs.predicted[one.common] for one in readings if one.outputs]
        evidence, *classes = self._detector.layer_evidence[beyond].tolist()
        return OutputDrift(
            evidence,
            class_evidence=classes[0] if classes else 0.0,
            active=any(latch.active for latch in latches),
            alarms=sum(latch.alarms for latch in latches),
            shares=class_shares(
                reference.outputs.predicted[reference.common],
                np.concatenate([np.empty(0, np.int64), *predicted]),
                reference.outputs.logits.shape[1],
            ),
        )

    def _cause(
        self, layers: Sequence[LayerDrift], readings: Sequence[Reading], seen: Described
    ) -> Cause | None:
        suspects = [
            Suspect(
                layer.tap, layer.active, layer.evidence, layer.instability.nonfinite, layer.worst_channels
            )
            for layer in layers
        ]
        suspect = first_suspect(suspects, model_active=self._detector.model.active)
        if suspect is None or self._judge is None:
            return None
        reference, index = self._judge.reference, self._taps.index(suspect.tap)
        nonfinite = [stack_rows(one.rows, [suspect.tap])[0, :, -1] for one in readings]
        ids = [each for one in readings for each in one.ids]
        return cause(
            suspect,
            FEATURES,
            Requests(
                self._judge.expected[index].rows,
                reference.rows[index, :, -1] > 0,
                reference.counted,
                reference.groups,
            ),
            Requests(
                seen.at(index),
                np.concatenate([np.empty(0), *nonfinite]) > 0,
                np.concatenate([np.empty(0, np.bool_), *[one.common for one in readings]]),
                Groups.of(readings, reference.routes),
                shown(ids, self._keep_ids),
            ),
        )

    def _layers(
        self, windows: Sequence[TapSketch], seen: Described, pace: Callable[[], None]
    ) -> tuple[LayerDrift, ...]:
        judge, seconds = self._judge, self._window_seconds
        effects = [EffectSizes.unknown()] * len(self._taps)
        newest = self._projected.newest(len(seen))
        weights = seen.weights[len(seen) - newest.shape[1] :]
        if judge:
            channel_means = judge.gaussians.distances(newest, weights, judge.reference.mean_nodrift)
            pace()
            effects = effect_sizes(judge.expected, windows, seen, channel_means)
            pace()
        distinct = []
        for tap in self._taps:
            distinct.append(self._timeline.distinct(seconds, tap).estimate)
            pace()
        together = between_at_taps(
            seen,
            [one.scale for one in judge.expected] if judge else None,
            distinct,
            [window.counts.requests for window in windows],
            [window.moments.variance for window in windows],
        )
        pace()
        centres = judge.reference.space.centres if judge else np.empty((0, 0), np.float32)
        together = of_channel_means(together, newest, weights, centres)
        evidence = self._detector.layer_evidence.tolist()
        layers = []
        for index, (tap, window) in enumerate(zip(self._taps, windows, strict=True)):
            pace()
            latch, reference = self._detector.layers[index], judge.expected[index].sketch if judge else None
            before = self._timeline.window(seconds, tap, ago=seconds)
            shifted = effects[index].shifted
            layer = LayerDrift(
                tap=tap,
                requests=window.counts.requests,
                evidence=evidence[index],
                active=latch.active,
                alarms=latch.alarms,
                alarm_ordinals=tuple(latch.ordinals),
                effects=effects[index],
                shifted_statistic=FEATURES[shifted] if shifted >= 0 else "",
                worst_channels=tuple(worst_channels(reference, window)) if reference else (),
                instability=instability(window, reference, before),
                between=together[index],
            )
            layers.append(layer)
        return tuple(layers)
