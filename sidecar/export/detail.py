"""How much is said of each tap, so that all of them together stay within `export.max_series`.

What is left out stays in the JSON API.
"""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.export import catalogue
from sidecar.export.catalogue import (
    CATALOGUE,
    COARSE_BUCKETS,
    KINDS,
    OF_FURTHER_VERSIONS,
    TAP,
    VALUE_BUCKETS,
    Metric,
)

WORST_CHANNELS = 1

ESSENTIAL = (
    catalogue.SILENT,
    catalogue.NONFINITE,
    catalogue.EVIDENCE,
    catalogue.DRIFTING,
    catalogue.PSI,
    catalogue.MEAN_SHIFT,
    catalogue.TIMES_LEVEL,
    catalogue.DEAD,
    catalogue.CHANNELS,
    catalogue.HEADROOM,
    catalogue.ABSMAX_GROWTH,
    catalogue.OUTLIERS,
    catalogue.VALUES,
    catalogue.POSITIONS,
)
"""What alerts are made of: a tap that cannot have all of it is left out whole."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something more that is said of a tap. series: what it adds. buckets: of VALUE."""

    metric: Metric
    series: int
    buckets: tuple[float, ...] = ()


def _steps() -> tuple[Step, ...]:
    coarse = Step(catalogue.VALUE, len(COARSE_BUCKETS) + 3, COARSE_BUCKETS)  # +Inf, count and sum
    fine = Step(catalogue.VALUE, len(VALUE_BUCKETS) - len(COARSE_BUCKETS), VALUE_BUCKETS)
    early = (*ESSENTIAL, catalogue.CAUSE, *OF_FURTHER_VERSIONS, catalogue.NEAR_ZEROS, catalogue.ZEROS)
    late = [
        metric
        for metric in CATALOGUE
        if metric.labels[:4] == TAP and metric not in early and metric is not catalogue.VALUE
    ]
    singles = {metric: Step(metric, _label_sets(metric)) for metric in (*early, *late)}
    essential = [singles[metric] for metric in ESSENTIAL]
    others = [singles[metric] for metric in early if metric not in ESSENTIAL]
    return (*essential, coarse, *others, fine, *[singles[metric] for metric in late])


def _label_sets(metric: Metric) -> int:
    return {"kind": len(KINDS), "rank": WORST_CHANNELS}.get(metric.labels[-1], 1)


STEPS = _steps()
"""In order of precedence; what comes last leaves first."""


@dataclass(frozen=True, slots=True)
class Detail:
    """metrics: what is said of every tap. buckets: classic ones of VALUE."""

    metrics: frozenset[Metric]
    buckets: tuple[float, ...]

    def series(self, *, further: bool) -> int:
        """Of one tap. further: of a further version of a model."""
        return sum(
            step.series
            for step in STEPS
            if step.metric in self.metrics
            and len(step.buckets) <= len(self.buckets)
            and (further or step.metric not in OF_FURTHER_VERSIONS)
        )


def detail(taps: int, further: int, max_series: int) -> Detail:
    """As many steps as `max_series` has room for, at least the essential.

    taps: of all versions. further: those among them of further versions of a model, of which some metrics are only.
    """
    metrics: set[Metric] = set()
    buckets: tuple[float, ...] = ()
    series = 0
    for step in STEPS:
        series += step.series * (further if step.metric in OF_FURTHER_VERSIONS else taps)
        if series > max_series and step.metric not in ESSENTIAL:
            break
        metrics.add(step.metric)
        buckets = step.buckets or buckets
    return Detail(frozenset(metrics), buckets)


def most_taps(place: int, max_series: int) -> int:
    """How many taps of first versions leave room for the step of STEPS at `place`."""
    upto = sum(step.series for step in STEPS[: place + 1] if step.metric not in OF_FURTHER_VERSIONS)
    return max_series // upto


FULL = Detail(frozenset(step.metric for step in STEPS), VALUE_BUCKETS)
"""Everything."""
