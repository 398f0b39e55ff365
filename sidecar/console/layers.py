"""One layer over a range: its channels, its values, its neurons."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sidecar.console.answers import (
    BandAnswer,
    ChannelsAnswer,
    HistogramAnswer,
    LayerAnswer,
    NeuronRow,
    NeuronsAnswer,
    SpikeAnswer,
)
from sidecar.console.questions import Filter, HistogramQuestion, LayerQuestion, NeuronsQuestion, Order
from sidecar.console.scope import Floats, Scope, brief, shift, told
from sidecar.sketch import TapSketch
from sidecar.sketch.histogram import bounds
from sidecar.timeline.statistics import statistics

SPIKE_SIGMAS = 6.0
SATURATED = 0.99
QUANTILES = {"p01": 0.01, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
_CELLS_PER_OCTAVE = 8


def layer(scope: Scope, asked: LayerQuestion) -> LayerAnswer:
    seen = scope.seen(asked)
    tap = scope.tap(seen.subject, asked.layer, asked.site)
    sketch = seen.sketch(tap)
    channels, reference = sketch.channels, scope.reference(seen.subject, tap)
    rms = sketch.channels.rms
    return LayerAnswer(
        tap=told(tap),
        covered=seen.covered(sketch.counts.requests),
        positions=channels.positions,
        statistics=statistics(sketch),
        channels=ChannelsAnswer(
            mean=brief(channels.mean),
            rms=brief(rms),
            absmax=brief(channels.absmax),
            fire_rate=brief(_rate(sketch)),
            outliers=channels.outliers.tolist(),
        ),
        spikes=_spikes(sketch, rms, asked.spikes),
        reference=_band(reference) if reference else None,
    )


def histogram(scope: Scope, asked: HistogramQuestion) -> HistogramAnswer:
    seen = scope.seen(asked)
    tap = scope.tap(seen.subject, asked.layer, asked.site)
    sketch = seen.sketch(tap)
    reference = scope.reference(seen.subject, tap)
    ours = sketch.histogram.signed()
    theirs = reference.histogram.signed() if reference else np.zeros_like(ours)
    lower, upper, (count, reference_count) = cells([ours, theirs], asked.per_octave)
    return HistogramAnswer(
        tap=told(tap),
        covered=seen.covered(sketch.counts.requests),
        lower=lower,
        upper=upper,
        count=count,
        total=int(ours.sum()),
        reference_count=reference_count if reference else None,
        reference_total=int(theirs.sum()),
        quantiles={name: sketch.histogram.quantile(q) for name, q in QUANTILES.items()},
    )


def cells(
    histograms: Sequence[np.typing.NDArray[np.int64]], per_octave: int
) -> tuple[list[float], list[float], list[list[int]]]:
    """Of `Histogram.signed` of several: bounds of the cells that are not empty in all, and the counts of each."""
    filled = np.flatnonzero(np.sum(histograms, axis=0))
    lower, upper = bounds()
    middle = lower.size // 2
    depth = np.abs(filled - middle) - 1
    # The zeros are a cell of their own, left of all groups of positive values and right of the negative.
    group = np.sign(filled - middle) * (1 + depth // (_CELLS_PER_OCTAVE // per_octave))
    edges, first = np.unique(group, return_index=True)
    last = np.append(first[1:], filled.size) - 1
    counts = [np.add.reduceat(one[filled], first).tolist() if edges.size else [] for one in histograms]
    return brief(lower[filled[first]]), brief(upper[filled[last]]), counts


def neurons(scope: Scope, asked: NeuronsQuestion) -> NeuronsAnswer:
    seen = scope.seen(asked)
    tap = scope.tap(seen.subject, asked.layer, asked.site)
    sketch = seen.sketch(tap)
    reference = scope.reference(seen.subject, tap)
    channels, rms, rate = sketch.channels, sketch.channels.rms, _rate(sketch)
    moved = shift(reference, sketch) if reference else np.full(len(channels), math.nan)
    passed = np.flatnonzero(_filtered(sketch, rms, asked))
    by: dict[Order, Floats] = {
        Order.CHANNEL: -np.arange(len(channels), dtype=np.float64),
        Order.MEAN: np.abs(channels.mean),
        Order.RMS: rms,
        Order.ABSMAX: channels.absmax,
        Order.FIRE_RATE: rate,
        Order.OUTLIERS: channels.outliers.astype(np.float64),
        Order.SHIFT: np.nan_to_num(np.abs(moved), nan=-1.0),
    }
    ordered = passed[np.argsort(-by[asked.order][passed], kind="stable")]
    page = ordered[asked.offset : asked.offset + asked.limit]
    behind = asked.offset + len(page)
    return NeuronsAnswer(
        tap=told(tap),
        covered=seen.covered(sketch.counts.requests),
        total=len(passed),
        next_offset=behind if behind < len(passed) else None,
        rate_bound=channels.dead_rate_bound,
        neurons=[
            NeuronRow(
                channel=channel,
                mean=float(channels.mean[channel]),
                rms=float(rms[channel]),
                absmax=float(channels.absmax[channel]),
                fire_rate=float(rate[channel]),
                outliers=int(channels.outliers[channel]),
                shift=float(moved[channel]) if reference else None,
            )
            for channel in page.tolist()
        ],
    )


def _filtered(sketch: TapSketch, rms: Floats, asked: NeuronsQuestion) -> np.typing.NDArray[np.bool_]:
    if asked.filter is Filter.DEAD:
        return sketch.channels.dead()
    if asked.filter is Filter.ALWAYS_ON:
        return sketch.channels.always_on()
    if asked.filter is Filter.MASSIVE:
        return sketch.massive()
    if asked.filter is Filter.SATURATED and asked.bound is not None:
        # The rms is at the bound only where nearly all values are.
        return np.greater_equal(rms, SATURATED * asked.bound)
    return np.ones(len(rms), dtype=np.bool_)


def _rate(sketch: TapSketch) -> Floats:
    """float64[C]: share of positions at which each channel fired."""
    return sketch.channels.fires / max(sketch.channels.positions, 1)


def _spikes(sketch: TapSketch, rms: Floats, most: int) -> list[SpikeAnswer]:
    """Channels whose mean stands out from the others', by a scale that the spikes themselves do not move."""
    mean = sketch.channels.mean
    distance = mean - np.median(mean)
    sigma = 1.4826 * float(np.median(np.abs(distance)))
    if not sigma > 0:
        return []
    sigmas = distance / sigma
    ordered = np.argsort(-np.abs(sigmas), kind="stable")[:most]
    return [
        SpikeAnswer(
            channel=channel,
            mean=float(mean[channel]),
            rms=float(rms[channel]),
            absmax=float(sketch.channels.absmax[channel]),
            sigmas=float(sigmas[channel]),
        )
        for channel in ordered.tolist()
        if abs(sigmas[channel]) >= SPIKE_SIGMAS
    ]


def _band(reference: TapSketch) -> BandAnswer:
    return BandAnswer(
        requests=reference.counts.requests,
        mean=brief(reference.channels.mean),
        stddev=brief(np.sqrt(reference.channels.variance)),
    )
