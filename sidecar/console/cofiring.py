"""Which channels of a layer rise and fall together, over all that was observed."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np

from sidecar.console.answers import CofiringAnswer, CofiringOther, CofiringPair
from sidecar.console.questions import CofiringQuestion
from sidecar.console.ranked import Floats, chance, correlation, differences
from sidecar.console.scope import Scope, told
from sidecar.errors import InvalidInputError
from sidecar.timeline import Subject
from sidecar.timeline.levels import columns
from sidecar.types import Tap

PANES = 300
"""The newest of the range. More take longer to read, and what changes over days is not what is asked for."""

OTHERS = 10

_FEW = "too few neighbouring panes of console.min_requests are kept of this range to tell"


def cofiring(scope: Scope, asked: CofiringQuestion) -> CofiringAnswer:
    subject = scope.subject(asked)
    tap = scope.tap(subject, asked.layer, asked.site)
    channels = list(asked.channels)
    if max(channels) >= tap.channels:
        raise InvalidInputError(f"channel {max(channels)} is none of tap {tap.key}, which has {tap.channels}")
    requests, means, rates = _panes(scope, subject, tap, asked)
    pairs = max(len(requests) - 1, 0)
    level = chance(pairs, tap.channels - len(channels))
    between = np.full((len(channels), tap.channels), math.nan)
    if pairs > 1:
        between = correlation(differences(means, requests), channels)
    others = _others(channels, between, level)
    # Of these alone, because ranking the rates of all would take as long again.
    listed = [*channels, *others]
    firing = np.full((len(channels), len(listed)), math.nan)
    if pairs > 1:
        firing = correlation(differences(rates[:, listed], requests), list(range(len(channels))))
    shared = _shared(scope, subject, tap, channels)
    return CofiringAnswer(
        tap=told(tap),
        channels=channels,
        detail="" if level < 1 else _FEW,
        panes=len(requests),
        requests=int(requests.sum()),
        error=chance(pairs),
        level=level,
        pairs=[
            CofiringPair(
                channel=channels[one],
                other=channels[other],
                correlation=float(between[one, channels[other]]),
                firing=float(firing[one, other]),
                shared=None if shared is None else int(shared[one, other]),
            )
            for one, other in combinations(range(len(channels)), 2)
        ],
        others=[
            CofiringOther(
                channel=channel,
                correlation=float(between[:, channel].min()),
                firing=float(firing[:, len(channels) + place].min()),
            )
            for place, channel in enumerate(others)
        ],
    )


def _panes(
    scope: Scope, subject: Subject, tap: Tap, asked: CofiringQuestion
) -> tuple[Floats, Floats, Floats]:
    """Requests [n], means and fire rates [n, C] of the finest panes that are kept, oldest first."""
    begin = 0.0 if asked.begin is None else asked.begin
    end = scope.clock() + 1.0 if asked.end is None else asked.end
    found = scope.recall.panes(subject.model, subject.version, begin, end)
    panes = columns(found, begin, end, len(found) + 1)[-PANES:]
    seen = [
        (sketch.counts.requests, sketch.channels.mean, sketch.channels.fires / sketch.channels.positions)
        for _, sketch in scope.recall.sketches(panes, tap)
        if sketch.counts.requests >= scope.min_requests and sketch.channels.positions
    ]
    requests = np.array([one[0] for one in seen], dtype=np.float64)
    means, rates = (np.array([one[part] for one in seen]).reshape(-1, tap.channels) for part in (1, 2))
    return requests, means, rates


def _shared(
    scope: Scope, subject: Subject, tap: Tap, channels: list[int]
) -> np.typing.NDArray[np.int64] | None:
    """int64[k, k] strongest requests that two channels share; None where that is not known or may not be told."""
    watched = scope.of(subject)
    if watched is None or watched.strongest is None or watched.timeline is None:
        return None
    if watched.timeline.total(tap).counts.requests < scope.min_requests:
        return None
    return watched.strongest.shared(tap, channels)


def _others(channels: list[int], between: Floats, level: float) -> list[int]:
    """Channels that go with each of those asked for by more than chance, by the least of their correlations."""
    least = np.nan_to_num(between, nan=-math.inf).min(axis=0)
    least[channels] = -math.inf
    return [
        channel for channel in np.argsort(-least, kind="stable")[:OTHERS].tolist() if least[channel] > level
    ]
