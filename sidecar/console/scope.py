"""What a question is about: the model version, the tap, the panes; and what must not be told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidecar.console.answers import Covered, TapAnswer
from sidecar.console.elsewhere import Place
from sidecar.console.questions import OfModel, Range
from sidecar.console.reruns import Reruns
from sidecar.drift import Reference
from sidecar.errors import InvalidInputError, UnknownModelError, WithheldError
from sidecar.export.activations import Watched
from sidecar.sketch import TapSketch
from sidecar.timeline import Kept, Recall, StoreStatus, Subject
from sidecar.timeline.levels import cover
from sidecar.types import Clock, Tap

RECENT_SECONDS = 600.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scope:
    """Everything that answers are made from, at the moment of one question.

    watched: model versions that are served. store: how the panes on disk fare; None where none are kept.
    elsewhere: what was loaded for the question. sources: what could be.
    reruns: of inputs; None where nobody may ask for them.
    """

    recall: Recall
    watched: Sequence[Watched]
    store: Callable[[], StoreStatus] | None
    min_requests: int
    clock: Clock
    elsewhere: Mapping[Place, Reference]
    sources: Sequence[str]
    reruns: Reruns | None = None

    def subject(self, asked: OfModel) -> Subject:
        """The model version that is meant, with the taps it had last. Raises UnknownModelError."""
        known = self.recall.subjects()
        served = [(one.model, one.version) for one in self.watched]

        keys = [(one.model, one.version) for one in known]

        def rank(place: int) -> tuple[int, int, int]:
            """Those that are served come first, in their order, and of each the newest taps."""
            key = keys[place]
            return served.index(key) if key in served else len(served), keys.index(key), -place

        for subject in (known[place] for place in sorted(range(len(known)), key=rank)):
            if asked.model in ("", subject.model) and asked.version in ("", subject.version):
                return subject
        names = ", ".join(sorted({f"{one.model} version {one.version}" for one in known})) or "none yet"
        raise UnknownModelError(
            f"nothing is known of model {asked.model!r} version {asked.version!r}; there is {names}"
        )

    def of(self, subject: Subject) -> Watched | None:
        """The served version whose panes these are; None for one of the past."""
        key = (subject.model, subject.version)
        return next((one for one in self.watched if (one.model, one.version) == key), None)

    def tap(self, subject: Subject, layer: int, site: str) -> Tap:
        """Raises InvalidInputError naming the taps that there are."""
        for tap in subject.taps:
            if tap.layer == layer and site in ("", tap.site):
                return tap
        there = ", ".join(tap.key for tap in subject.taps[:20])
        raise InvalidInputError(f"there is no tap in layer {layer} with site {site!r}; there are {there}")

    def seen(self, asked: Range) -> Seen:
        """What the question is about. Raises UnknownModelError, or InvalidInputError where it is not there."""
        if not asked.source:
            subject = self.subject(asked)
            return Seen(self, subject, self.panes(subject, asked), None, "")
        recorded = (
            self._live_reference(asked) if asked.source == "reference" else self.elsewhere[Place.of(asked)]
        )
        subject = Subject(recorded.model, recorded.version, recorded.taps)
        return Seen(self, subject, (), recorded, asked.source)

    def judged_by(self, subject: Subject) -> Reference | None:
        """What a version is compared with while it is served."""
        watched = self.of(subject)
        return watched.monitor.reference if watched and watched.monitor else None

    def _live_reference(self, asked: Range) -> Reference:
        subject = self.subject(asked)
        if reference := self.judged_by(subject):
            return reference
        raise InvalidInputError(
            f"{subject.model} version {subject.version} has no reference now: it is recorded still, or not observed"
        )

    def panes(self, subject: Subject, asked: Range) -> list[Kept]:
        """The fewest panes that tell of the range, or the one of the step.

        Raises InvalidInputError for a step that is not kept.
        """
        if asked.step is not None:
            return [self._step(subject, asked.step)]
        end = self.clock() + 1.0 if asked.end is None else asked.end
        begin = end - RECENT_SECONDS if asked.begin is None else asked.begin
        return cover(self.recall.panes(subject.model, subject.version, begin, end), begin, end)

    def merged(self, panes: Sequence[Kept], tap: Tap) -> TapSketch:
        """Raises WithheldError where it is of too few requests."""
        sketch = self.recall.merged(panes, tap)
        self.require(sketch.counts.requests)
        return sketch

    def require(self, requests: int, happened: str = "requests were observed there") -> None:
        if requests < self.min_requests:
            raise WithheldError(
                f"{requests} {happened}, console.min_requests is {self.min_requests}: an aggregate of so few "
                "could tell of one of them"
            )

    def reference(self, subject: Subject, tap: Tap) -> TapSketch | None:
        """What the tap is compared with, if that is known and may be shown."""
        reference = self.judged_by(subject)
        if reference is None or reference.requests < self.min_requests:
            return None
        for known, sketch in zip(reference.taps, reference.sketches, strict=True):
            if known.key == tap.key and len(sketch.channels) == tap.channels:
                return sketch
        return None

    def _step(self, subject: Subject, step: int) -> Kept:
        steps = self.recall.steps(subject.model, subject.version)
        for pane in steps:
            if pane.start == step:
                return pane
        there = ", ".join(f"{pane.start:.0f}" for pane in steps[-20:]) or "none"
        raise InvalidInputError(f"step {step} is not kept; there is {there}")


@dataclass(frozen=True, slots=True)
class Seen:
    """Sketches of one model version: of panes, or of a reference, which has none."""

    scope: Scope
    subject: Subject
    panes: Sequence[Kept]
    recorded: Reference | None
    source: str

    def sketch(self, tap: Tap) -> TapSketch:
        """Raises WithheldError where it is of too few requests."""
        if self.recorded is None:
            return self.scope.merged(self.panes, tap)
        self.scope.require(self.recorded.requests)
        return self.recorded.sketches[self.recorded.taps.index(tap)]

    @property
    def requests(self) -> int:
        return self.recorded.requests if self.recorded else sum(pane.requests for pane in self.panes)

    def covered(self, requests: int) -> Covered:
        told = covered(self.subject, self.panes, requests)
        if self.recorded is None:
            return told
        return told.model_copy(update={"source": self.source, "end": self.recorded.created_at})


def covered(subject: Subject, panes: Sequence[Kept], requests: int) -> Covered:
    timed = [pane for pane in panes if pane.span]
    return Covered(
        model=subject.model,
        version=subject.version,
        begin=timed[0].start if timed else None,
        end=timed[-1].start + timed[-1].span if timed else None,
        step=int(panes[0].start) if panes and not timed else None,
        panes=len(panes),
        requests=requests,
        source="",
    )


def told(tap: Tap) -> TapAnswer:
    return TapAnswer(layer=tap.layer, site=tap.site, module=tap.module, channels=tap.channels)


def brief(values: Floats) -> list[float]:
    """Six significant digits, which is more than panes keep, and half the bytes of an answer."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scale = 10.0 ** (5 - np.floor(np.log10(np.abs(values))))
        rounded = np.where(np.isfinite(scale) & (scale > 0), np.round(values * scale) / scale, values)
    return list(rounded.tolist())


def shift(expected: TapSketch, seen: TapSketch) -> Floats:
    """float64[C]: how far each channel's mean moved, in the expected standard deviations; NaN where that is 0."""
    sigma = np.sqrt(expected.channels.variance)
    moved = seen.channels.mean - expected.channels.mean
    return np.where(sigma > 0, moved / np.where(sigma > 0, sigma, 1.0), math.nan)
