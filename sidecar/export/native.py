"""Native histograms: sparse buckets that end at powers of 2 ** (1 / 8), Prometheus' schema 3.

Format: prometheus.io/docs/specs/native_histograms. Bucket i covers (2 ** ((i - 1) / 8), 2 ** (i / 8)].
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from prometheus_client.samples import BucketSpan, NativeHistogram

from sidecar.sketch import TapSketch

SCHEMA = 3
PER_OCTAVE = 2**SCHEMA
ZERO_THRESHOLD = 2.0**-14
"""Activations up to it count as 0: the smallest normal number of float16."""

Counts = npt.NDArray[np.int64]

# The sketch's bins go by the top bits of a float32: bin k of a sign starts at exponent k // 8 - 127.
_BIAS = 127 * PER_OCTAVE
_FIRST = (127 - 14) * PER_OCTAVE


def values(sketch: TapSketch) -> NativeHistogram:
    """All finite values that the sketch's histogram was shown, both signs.

    A bin of the sketch is an eighth of an octave wide, a bucket a factor of 2 ** (1 / 8). The edge of a bucket lies
    within a bin, and the values of that bin are divided as if they were spread evenly. Every count grows with its
    bin, so none ever falls.
    """
    cells = sketch.histogram.counts
    half = len(cells) // 2
    positive, negative = cells[:half], cells[half:].copy()
    negative[-1] = 0  # that cell holds the zeros
    near = int(positive[:_FIRST].sum() + negative[:_FIRST].sum())
    total = sketch.histogram.total
    # The histogram may have been shown a share of the values; the mean is that of all.
    mean = sketch.moments.mean if sketch.moments.n else 0.0
    neg_spans, neg_deltas = sparse(*_spread(negative))
    pos_spans, pos_deltas = sparse(*_spread(positive))
    zeros = sketch.histogram.zeros + near
    return NativeHistogram(
        total, mean * total, SCHEMA, ZERO_THRESHOLD, zeros, pos_spans, neg_spans, pos_deltas, neg_deltas
    )


def _spread(cells: Counts) -> tuple[int, Counts]:
    """Counts of one sign by bin of the sketch, as counts by bucket."""
    wide = cells[_FIRST:]
    low = np.floor(wide * _low_shares()).astype(np.int64)
    buckets = np.zeros(len(wide) + 1, dtype=np.int64)
    buckets[:-1] = low
    buckets[1:] += wide - low
    return _FIRST - _BIAS + 1, buckets


@cache
def _low_shares() -> npt.NDArray[np.float64]:
    """Share of each bin from `_FIRST` on that lies below the one edge of a bucket within it, 1 without one."""
    step = np.arange(PER_OCTAVE)
    below = (2 ** ((step + 1) / PER_OCTAVE) - (1 + step / PER_OCTAVE)) * PER_OCTAVE
    return np.tile(below, 256 - _FIRST // PER_OCTAVE)


def sparse(first: int, counts: Counts) -> tuple[list[BucketSpan], list[int]]:
    """Runs of buckets that are not empty, each by its distance from the one before, and counts as differences.

    counts: of bucket `first` and those after it.
    """
    filled = np.flatnonzero(counts)
    if not len(filled):
        return [], []
    begins = [0, *(np.flatnonzero(filled[1:] - filled[:-1] != 1) + 1).tolist()]
    lengths = [end - begin for begin, end in itertools.pairwise([*begins, len(filled)])]
    starts = (first + filled[begins]).tolist()
    ends = [0, *[start + length for start, length in zip(starts, lengths, strict=True)]]
    spans = [
        BucketSpan(start - end, length) for start, end, length in zip(starts, ends, lengths, strict=False)
    ]
    deltas = counts[filled]
    deltas[1:] -= counts[filled[:-1]]
    return spans, deltas.tolist()


def buckets(spans: Sequence[BucketSpan], deltas: Sequence[int]) -> dict[int, int]:
    """Number of a bucket -> its count: what spans and deltas say."""
    found: dict[int, int] = {}
    number = count = 0
    remaining = iter(deltas)
    for span in spans:
        number += span.offset
        for _ in range(span.length):
            count += next(remaining)
            found[number] = count
            number += 1
    return found
