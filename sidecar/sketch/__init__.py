"""Mergeable summaries of activation values, in plain numpy."""

from sidecar.sketch.channels import Channels
from sidecar.sketch.counts import Counts
from sidecar.sketch.distinct import Distinct
from sidecar.sketch.histogram import BINS, MANTISSA_BITS, Histogram, bin_index, edges
from sidecar.sketch.moments import Moments
from sidecar.sketch.peaks import Peaks
from sidecar.sketch.projection import PROJECTIONS, SIGN_HASH, project, signs
from sidecar.sketch.rows import ROW_STATISTICS, OutputRows, Reading, RequestRows, patterns, signatures
from sidecar.sketch.tap import TapSketch
from sidecar.sketch.together import Together

__all__ = [
    "BINS",
    "MANTISSA_BITS",
    "PROJECTIONS",
    "ROW_STATISTICS",
    "SIGN_HASH",
    "Channels",
    "Counts",
    "Distinct",
    "Histogram",
    "Moments",
    "OutputRows",
    "Peaks",
    "Reading",
    "RequestRows",
    "TapSketch",
    "Together",
    "bin_index",
    "edges",
    "patterns",
    "project",
    "signatures",
    "signs",
]
