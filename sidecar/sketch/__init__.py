"""Mergeable summaries of activation values, in plain numpy."""

from sidecar.sketch.channels import Channels
from sidecar.sketch.counts import Counts
from sidecar.sketch.distinct import Distinct
from sidecar.sketch.histogram import BINS, MANTISSA_BITS, Histogram, bin_index, edges
from sidecar.sketch.moments import Moments
from sidecar.sketch.rows import ROW_STATISTICS, OutputRows, Reading, RequestRows, signatures
from sidecar.sketch.tap import TapSketch

__all__ = [
    "BINS",
    "MANTISSA_BITS",
    "ROW_STATISTICS",
    "Channels",
    "Counts",
    "Distinct",
    "Histogram",
    "Moments",
    "OutputRows",
    "Reading",
    "RequestRows",
    "TapSketch",
    "bin_index",
    "edges",
    "signatures",
]
