"""The state of one tap on its device, and what the drain reads out of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sidecar.capture import layout
from sidecar.sketch import (
    BINS,
    PROJECTIONS,
    Channels,
    Counts,
    Histogram,
    Moments,
    Peaks,
    RequestRows,
    TapSketch,
    project,
)

Array = npt.NDArray[Any]

Contents = tuple[Array, ...]
"""histogram, integers, floats, projections and peaks of one bank, on the host."""

_ROUNDING = 1e-6
"""Power sums are float32 within a tile, so less than this share of one is rounding."""


class TapState(nn.Module):
    """Two banks of accumulators as registered buffers, which compiled graphs may mutate.

    channels: size of the tapped channel dimension. slots: sampled requests per bank. See `layout`.
    """

    histogram: torch.Tensor
    integers: torch.Tensor
    floats: torch.Tensor
    projections: torch.Tensor
    peaks: torch.Tensor

    def __init__(self, channels: int, slots: int, device: torch.device) -> None:
        super().__init__()
        self.channels, self.slots = channels, slots
        self._ones = project(np.ones(channels))
        tables = layout.HISTOGRAM_TABLES if device.type == "cpu" else 1
        shapes = {
            "histogram": ((tables, BINS), torch.int32),
            "integers": ((layout.integer_cells(channels, slots),), torch.int64),
            "floats": ((layout.float_cells(channels, slots),), torch.float64),
            "projections": ((slots, PROJECTIONS), torch.float32),
            "peaks": ((channels,), torch.int64),
        }
        for name, (shape, dtype) in shapes.items():
            buffer = torch.zeros(layout.BANKS, *shape, dtype=dtype, device=device)
            self.register_buffer(name, buffer, persistent=False)
        for bank in range(layout.BANKS):
            self.clear(bank, used=slots, pivot=0.0)

    def clear(self, bank: int, used: int, pivot: float) -> None:
        """Make `bank` empty. Only the first `used` slots can have been written."""
        integers, floats = self.integers[bank], self.floats[bank]
        slot_cells = 2 * self.channels
        self.histogram[bank].zero_()
        self.projections[bank, :used].zero_()
        self.peaks[bank].zero_()
        integers[: slot_cells + used * layout.SLOT_COUNTS].zero_()
        slot_cells = layout.PIVOT_CELLS + 2 * self.channels
        floats[:slot_cells].zero_()
        floats[0].fill_(float(np.float32(pivot)))
        sums = floats[slot_cells:].view(self.slots, layout.SLOT_SUMS)[:used]
        sums.zero_()
        sums[:, layout.MINIMUM].fill_(torch.inf)
        sums[:, layout.MAXIMUM].fill_(-torch.inf)

    def contents(self, bank: int) -> Contents:
        """A bank that lies on the host, as it is."""
        return tuple(part[bank].numpy() for part in self.held)

    def pack(self, bank: int) -> list[torch.Tensor]:
        """The same as bytes, on any device."""
        return [part[bank].reshape(-1).view(torch.uint8) for part in self.held]

    @property
    def bank_bytes(self) -> int:
        return sum(part[0].nbytes for part in self.held)

    def unpack(self, host: torch.Tensor) -> Contents:
        """The contents that `pack` gave and that now lie one after another in `host`."""
        sizes = [part[0].nbytes for part in self.held]
        pieces = zip(torch.split(host, sizes), self.held, strict=True)
        return tuple(piece.view(like.dtype).view(like.shape[1:]).numpy() for piece, like in pieces)

    @property
    def held(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the op writes, in the order of its arguments."""
        return self.histogram, self.integers, self.floats, self.projections, self.peaks

    def read(self, bank: int, used: int) -> tuple[TapSketch, RequestRows]:
        """`decode` of a bank that lies on the host."""
        return self.decode(self.contents(bank), used)

    def decode(self, contents: Contents, used: int) -> tuple[TapSketch, RequestRows]:
        """What a bank saw: the sketch over all its requests, and one row of statistics for each.

        It keeps nothing of `contents`.
        """
        tables, integers, floats, projections, peaks = contents
        width = self.channels
        counts = integers[2 * width : 2 * width + used * layout.SLOT_COUNTS].reshape(used, layout.SLOT_COUNTS)
        first = layout.PIVOT_CELLS
        sums = floats[first + 2 * width :].reshape(self.slots, layout.SLOT_SUMS)[:used]
        pivot = float(floats[0])
        bins = tables.sum(axis=0, dtype=np.int64)
        total = counts.sum(axis=0)
        finite = int(total[layout.VALUES] - total[layout.NAN] - total[layout.POS_INF] - total[layout.NEG_INF])
        powers = sums[:, layout.S1 : layout.S4 + 1].sum(axis=0)
        reached = counts[:, layout.POSITIONS] > 0
        moments = Moments.empty()
        if finite:
            s1, s2, s3, s4 = powers
            low, high = sums[:, layout.MINIMUM].min(), sums[:, layout.MAXIMUM].max()
            moments = Moments.from_power_sums(finite, pivot, s1, s2, s3, s4, low, high)
        positions = int(total[layout.POSITIONS])
        channels = Channels(
            positions=positions,
            fires=integers[:width].copy(),
            total=floats[first : first + width].copy(),
            squares=floats[first + width : first + 2 * width].copy(),
            absmax=_absmax(peaks).astype(np.float64),
            outliers=integers[width : 2 * width].copy(),
        )
        sketch = TapSketch(
            counts=Counts(*map(int, [*total, reached.sum()])),
            moments=moments,
            histogram=Histogram(bins),
            channels=channels,
        )
        means = self._mean_projections(projections[:used], counts[:, layout.POSITIONS], pivot)
        return sketch, RequestRows(_row_statistics(counts, sums, pivot), projections=means)

    def found_peaks(self, contents: Contents) -> Peaks:
        """Which request drove each channel of a bank most. It keeps nothing of `contents`."""
        *_, peaks = contents
        absmax, codes = _absmax(peaks), peaks.astype(np.int32)
        return Peaks(np.where(absmax > 0, codes >> 1, -1), np.where(codes & 1, -absmax, absmax))

    def _mean_projections(self, sums: Array, positions: Array, pivot: float) -> Array:
        """As in `RequestRows`, of sums about the pivot."""
        with np.errstate(divide="ignore", invalid="ignore"):
            means = sums / positions.astype(np.float32)[:, None]
        means += (pivot * self._ones).astype(np.float32)
        means[~np.isfinite(means).all(axis=1)] = np.inf
        means[positions == 0] = np.nan
        return means


def _absmax(peaks: Array) -> Array:
    return (peaks >> 32).astype(np.int32).view(np.float32)


def _row_statistics(counts: Array, sums: Array, pivot: float) -> Array:
    """[n, 6] in the order of `ROW_STATISTICS`.

    NaN where a request did not reach the tap; kurtosis also where its values are equal.
    """
    values = counts[:, layout.VALUES].astype(np.float64)
    nonfinite = counts[:, layout.NAN : layout.NEG_INF + 1].sum(axis=1)
    finite = values - nonfinite
    with np.errstate(divide="ignore", invalid="ignore"):
        s1, s2, s3, s4 = (sums[:, column] / finite for column in range(4))
        variance = s2 - s1**2
        fourth = s4 - 4 * s1 * s3 + 6 * s1**2 * s2 - 3 * s1**4
        mean = pivot + s1
        rms = np.sqrt(np.maximum(s2 + 2 * pivot * s1 + pivot**2, 0.0))
        absmax = np.maximum(sums[:, layout.MAXIMUM], -sums[:, layout.MINIMUM])
        near_zero = counts[:, layout.NEAR_ZEROS] / finite
        kurtosis = np.where(variance > _ROUNDING * s2, fourth / variance**2, np.nan)
    rows = np.stack([mean, rms, absmax, near_zero, kurtosis, nonfinite.astype(np.float64)], axis=1)
    rows[values == 0] = np.nan
    rows[(values > 0) & (finite == 0), :5] = np.nan
    return rows
