"""What there is to ask about, what each model is compared with, and any two sides beside each other."""

from __future__ import annotations

import math
from dataclasses import replace

from sidecar.console import withheld
from sidecar.console.answers import (
    BaselineAnswer,
    BaselinesAnswer,
    CompareAnswer,
    ComparedLayer,
    DriftAnswer,
    ModelAnswer,
    SideAnswer,
    StatisticAnswer,
    TapsAnswer,
)
from sidecar.console.course import spread
from sidecar.console.questions import BaselinesQuestion, CompareQuestion, DriftQuestion, TapsQuestion
from sidecar.console.scope import Scope, told
from sidecar.console.without_drift import WithoutDrift
from sidecar.drift.values import value_effects
from sidecar.sketch import TapSketch
from sidecar.timeline import Subject
from sidecar.timeline.statistics import STATISTICS
from sidecar.types import Tap

COMPARED_SKETCHES = 384
"""Most sketches that one comparison reads, so that it stays quick."""
_STEPS_TOLD = 1000


def taps(scope: Scope, _asked: TapsQuestion) -> TapsAnswer:
    newest = {(one.model, one.version): one for one in scope.recall.subjects()}
    return TapsAnswer(
        models=[_model(scope, subject) for subject in newest.values()],
        statistics=[
            StatisticAnswer(name=name, help=one.help, gaussian=one.gaussian)
            for name, one in STATISTICS.items()
        ],
        min_requests=scope.min_requests,
        sources=list(scope.sources),
        store=scope.store() if scope.store else None,
    )


def _model(scope: Scope, subject: Subject) -> ModelAnswer:
    panes = scope.recall.panes(subject.model, subject.version)
    steps = scope.recall.steps(subject.model, subject.version)
    return ModelAnswer(
        model=subject.model,
        version=subject.version,
        served=scope.of(subject) is not None,
        taps=[told(tap) for tap in subject.taps],
        first=min((pane.start for pane in panes), default=None),
        last=max((pane.start + pane.span for pane in panes), default=None),
        steps=[int(pane.start) for pane in steps[-_STEPS_TOLD:]],
    )


def drift(scope: Scope, asked: DriftQuestion) -> DriftAnswer:
    subject = scope.subject(asked)
    watched = scope.of(subject)
    state = (
        withheld.told(watched.monitor.state(), scope.min_requests) if watched and watched.monitor else None
    )
    return DriftAnswer(model=subject.model, version=subject.version, state=state)


def baselines(scope: Scope, _asked: BaselinesQuestion) -> BaselinesAnswer:
    found = []
    for watched in scope.watched:
        if watched.monitor is None:
            continue
        reference = watched.monitor.reference
        found.append(
            BaselineAnswer(
                model=watched.model,
                version=watched.version,
                complete=reference is not None,
                requests=reference.requests if reference else watched.monitor.state().reference_requests,
                recorded_from=reference.version if reference else None,
                created_at=reference.created_at if reference else None,
            )
        )
    return BaselinesAnswer(baselines=found)


def compare(scope: Scope, asked: CompareQuestion) -> CompareAnswer:
    """Sides of equal layer, site and width are put beside each other."""
    left, right = scope.seen(asked.left), scope.seen(asked.right)
    theirs = {(tap.key, tap.channels): tap for tap in right.subject.taps}
    pairs = [
        (tap, theirs[tap.key, tap.channels]) for tap in left.subject.taps if (tap.key, tap.channels) in theirs
    ]
    most = max(COMPARED_SKETCHES // (2 * max(len(pairs), 1)), 1)
    left, right = (replace(side, panes=spread(side.panes, most)) for side in (left, right))
    without = WithoutDrift.of(scope, left, right, most)
    return CompareAnswer(
        left=left.covered(left.requests),
        right=right.covered(right.requests),
        layers=[_compared(ours, left.sketch(ours), right.sketch(other), without) for ours, other in pairs],
    )


def _compared(tap: Tap, left: TapSketch, right: TapSketch, without: WithoutDrift) -> ComparedLayer:
    nodrift, measured_on = without.at(tap)
    effects = value_effects(left, right, nodrift, without.shared)
    moved = math.nan
    if left.moments.n and left.moments.variance > 0:
        moved = (right.moments.mean - left.moments.mean) / left.moments.stddev
    return ComparedLayer(
        tap=told(tap),
        **effects.sizes,
        shift=moved,
        no_drift=dict(effects.no_drift),
        no_drift_from=measured_on,
        levels=dict(effects.levels),
        times_level=effects.times_level,
        left=_described(left),
        right=_described(right),
    )


def _described(sketch: TapSketch) -> SideAnswer:
    moments = sketch.moments
    return SideAnswer(
        mean=moments.mean,
        rms=moments.rms,
        absmax=moments.absmax,
        kurtosis=moments.kurtosis,
        near_zero_share=sketch.near_zero_share,
        requests=sketch.counts.requests,
    )
