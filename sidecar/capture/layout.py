"""How the state of one tap lies in memory: names for the cells, shared by every kernel and by the drain.

A tap has two banks. The op writes the bank that `bank` names while the drain reads and clears the other,
so neither waits. Per bank:

- histogram int32[tables, BINS]: tables whose sum is the histogram. HISTOGRAM_TABLES on a CPU, where neighbouring
  values go to different ones, so that a run of equal values does not serialise on one counter; one on a GPU
- integers int64[2 * C + slots * SLOT_COUNTS + CALL_CELLS]: fires[C], outliers[C], the counts of each slot, and
  the calls of the op, by which a kernel that samples takes turns; it alone writes and reads them
- floats float64[PIVOT_CELLS + 2 * C + slots * SLOT_SUMS]: the pivot (a float32 value), then sum[C] and squares[C], then
  the power sums about the pivot and the extremes of each slot
- projections float32[slots, PROJECTIONS]: of each slot the sums of its channels about the pivot, as `sketch.project`
  has them
- peaks int64[C]: in the upper half the bits of each channel's absmax, a float32; in the lower where it stands, twice
  the slot, and one more where the value is negative. Of equal ones the first call's stays

A slot belongs to one sampled request. What is known of the whole tap is the sum over its slots.
"""

from __future__ import annotations

BANKS = 2
HISTOGRAM_TABLES = 4
PIVOT_CELLS = 1
CALL_CELLS = 1

HISTOGRAM_SHARE = 16
"""A GPU's histogram takes one in so many tiles; on a CPU it takes all."""

VALUES, ZEROS, NEAR_ZEROS, NAN, POS_INF, NEG_INF, SUBNORMALS, OUTLIERS, POSITIONS = range(9)
SLOT_COUNTS = 9

S1, S2, S3, S4, MINIMUM, MAXIMUM = range(6)
SLOT_SUMS = 6

ENERGY, MARGIN, OUTPUT_ROWS, LOGIT_SUMS = range(4)
"""Sums of a classifier's output in a slot; from the last on, its projected logits."""

OUTLIER = 6.0
"""|x| at or beyond it is an outlier (Dettmers 2022, LLM.int8())."""


def integer_cells(channels: int, slots: int) -> int:
    return 2 * channels + slots * SLOT_COUNTS + CALL_CELLS


def float_cells(channels: int, slots: int) -> int:
    return PIVOT_CELLS + 2 * channels + slots * SLOT_SUMS
