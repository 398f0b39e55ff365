"""What is going on now, as a baseline: the window of one process that another is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sidecar.drift.frechet import SIZES
from sidecar.drift.groups import ROUTE, frequent
from sidecar.drift.nodrift import NoDrift
from sidecar.drift.reference import Reference
from sidecar.drift.scores import stack_rows
from sidecar.drift.space import MeanSpace
from sidecar.drift.strata import labels
from sidecar.errors import BaselineError
from sidecar.sketch import OutputRows
from sidecar.timeline import Timeline
from sidecar.types import Tap


def snapshot(
    model: str,
    version: str,
    taps: Sequence[Tap],
    timeline: Timeline,
    seconds: float,
    nodrift: Sequence[NoDrift],
    stratify_by: str,
    min_requests: int = 1,
) -> Reference:
    """The last `seconds`. nodrift: of what the taps are judged by. Raises BaselineError with fewer requests."""
    readings = timeline.readings(seconds)
    if (seen := sum(one.requests for one in readings)) < min_requests:
        few = f"{seen or 'no'} request{'s' if seen > 1 else ''} of {model} version {version}"
        need = f"; an aggregate of fewer than {min_requests} could tell of one of them" if seen else ""
        raise BaselineError(f"{few} {'were' if seen > 1 else 'was'} observed in the last {seconds:g} s{need}")
    outputs = [one.outputs for one in readings if one.outputs]
    stacked = np.concatenate([stack_rows(one.rows, taps) for one in readings], axis=1)
    return Reference(
        model=model,
        version=version,
        created_at=readings[-1].at,
        taps=tuple(taps),
        sketches=tuple(timeline.window(seconds, tap) for tap in taps),
        nodrift=tuple(nodrift),
        rows=stacked,
        # The timeline keeps no projections, so that a window stays small.
        space=MeanSpace.unknown(len(taps)),
        distances=np.full(stacked.shape[:2], np.nan),
        mean_nodrift=np.full((len(taps), 2, len(SIZES)), np.nan),
        weights=np.concatenate([one.weights for one in readings]),
        common=np.concatenate([one.common for one in readings]),
        outputs=OutputRows.concat(outputs) if len(outputs) == len(readings) else None,
        stratified_by=stratify_by,
        labels=np.concatenate([labels(one, stratify_by) for one in readings]),
        routes=frequent(np.concatenate([labels(one, ROUTE) for one in readings])),
    )
