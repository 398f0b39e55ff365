"""Over time or training steps: one neuron, and all layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sidecar.console.answers import CellAnswer, MatrixAnswer, NeuronAnswer
from sidecar.console.questions import Axis, Course, MatrixQuestion, NeuronQuestion
from sidecar.console.scope import Floats, Scope, brief, told
from sidecar.errors import InvalidInputError
from sidecar.timeline import Kept, Subject
from sidecar.timeline.levels import columns

_QUARTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def neuron(scope: Scope, asked: NeuronQuestion) -> NeuronAnswer:
    subject = scope.subject(asked)
    tap = scope.tap(subject, asked.layer, asked.site)
    if asked.channel >= tap.channels:
        raise InvalidInputError(f"channel {asked.channel} is none of tap {tap.key}, which has {tap.channels}")
    panes = _along(scope, subject, asked, asked.points)
    seen: list[Kept] = []
    positions = fires = outliers = 0
    course: list[list[float]] = []
    for pane, requests, channel in scope.recall.channel(panes, tap, asked.channel):
        n = channel.positions if requests >= scope.min_requests else 0
        if n:
            positions += n
            fires += int(channel.fires[0])
            outliers += int(channel.outliers[0])
        sums = (channel.total[0], channel.squares[0], channel.absmax[0] * n, channel.fires[0])
        seen.append(pane)
        course.append([float(one) / n for one in sums] if n else [math.nan] * 4)
    mean, square, absmax, rate = np.array(course, dtype=np.float64).reshape(-1, 4).T
    rms = np.sqrt(square)
    reference = scope.reference(subject, tap)
    return NeuronAnswer(
        tap=told(tap),
        channel=asked.channel,
        start=[pane.start for pane in seen],
        seconds=[pane.span for pane in seen],
        requests=[pane.requests for pane in seen],
        mean=brief(mean),
        rms=brief(rms),
        absmax=brief(absmax),
        fire_rate=brief(rate),
        magnitudes={
            "near_zero": positions - fires,
            "between": fires - outliers,
            "at_least_6": outliers,
        },
        distribution={"mean": _spread(mean), "rms": _spread(rms), "absmax": _spread(absmax)},
        reference_mean=float(reference.channels.mean[asked.channel]) if reference else None,
        reference_stddev=math.sqrt(reference.channels.variance[asked.channel]) if reference else None,
    )


def matrix(scope: Scope, asked: MatrixQuestion) -> MatrixAnswer:
    subject = scope.subject(asked)
    taps = [tap for tap in subject.taps if asked.site in ("", tap.site)]
    panes = _along(scope, subject, asked, asked.columns)
    values = scope.recall.values(panes, taps, asked.statistic.value)
    values[:, [pane.requests < scope.min_requests for pane in panes]] = math.nan
    known = np.where(np.isfinite(values), values, -math.inf)
    peaks = [int(np.argmax(row)) if np.isfinite(row).any() else None for row in known]
    peak = None
    if any(place is not None for place in peaks):
        row, column = np.unravel_index(np.argmax(known), known.shape)
        peak = CellAnswer(row=int(row), column=int(column), value=float(values[row, column]))
    return MatrixAnswer(
        model=subject.model,
        version=subject.version,
        statistic=asked.statistic.value,
        rows=[told(tap) for tap in taps],
        start=[pane.start for pane in panes],
        seconds=[pane.span for pane in panes],
        requests=[pane.requests for pane in panes],
        values=[brief(row) for row in values],
        peak=peak,
        row_peaks=peaks,
    )


def _along(scope: Scope, subject: Subject, asked: Course, most: int) -> list[Kept]:
    """At most so many panes of the axis, oldest or lowest first; of more steps those that are evenly spread."""
    if asked.axis is Axis.STEP:
        return spread(scope.recall.steps(subject.model, subject.version), most)
    begin = 0.0 if asked.begin is None else asked.begin
    end = scope.clock() + 1.0 if asked.end is None else asked.end
    return columns(scope.recall.panes(subject.model, subject.version, begin, end), begin, end, most)


def spread(panes: Sequence[Kept], most: int) -> list[Kept]:
    """At most so many, evenly spread, the first and the last among them where there is room for two."""
    if len(panes) <= most:
        return list(panes)
    places = np.linspace(0, len(panes) - 1, most) if most > 1 else np.array([len(panes) - 1])
    return [panes[place] for place in np.rint(places).astype(int)]


def _spread(values: Floats) -> list[float]:
    known = values[np.isfinite(values)]
    if not known.size:
        return [math.nan] * len(_QUARTILES)
    return brief(np.quantile(known, _QUARTILES))
