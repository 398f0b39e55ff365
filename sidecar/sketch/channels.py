"""What each channel of a tap did."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidecar.errors import SketchError

ALWAYS_ON = 0.999
NEAR_BOUND = 0.99
LEAST_POSITIONS = 300
"""Of which a channel is called saturated: the rule of three, for what happens once in a hundred."""


@dataclass(slots=True, eq=False)
class Channels:
    """Sums over `positions` vectors of C channels; non-finite values are left out of every one.

    fires: values with |x| above the near-zero bound. outliers: values with |x| >= 6.
    total, squares: sums of x and x**2. absmax: largest |x|, 0 where nothing was seen.
    """

    positions: int
    fires: npt.NDArray[np.int64]
    total: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    absmax: npt.NDArray[np.float64]
    outliers: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if len({(self.fires.size,), *(part.shape for part in self._arrays())}) != 1:
            raise SketchError(f"channel arrays differ in shape: {[part.shape for part in self._arrays()]}")

    @classmethod
    def empty(cls, channels: int) -> Channels:
        def counts() -> npt.NDArray[np.int64]:
            return np.zeros(channels, dtype=np.int64)

        def sums() -> npt.NDArray[np.float64]:
            return np.zeros(channels, dtype=np.float64)

        return cls(0, counts(), sums(), sums(), sums(), counts())

    def __len__(self) -> int:
        return self.fires.size

    def merge(self, other: Channels) -> None:
        """Raises SketchError when the widths differ."""
        if len(self) != len(other):
            raise SketchError(f"cannot merge {len(other)} channels into {len(self)}")
        self.positions += other.positions
        self.fires += other.fires
        self.total += other.total
        self.squares += other.squares
        np.maximum(self.absmax, other.absmax, out=self.absmax)
        self.outliers += other.outliers

    def copy(self) -> Channels:
        return Channels(self.positions, *(part.copy() for part in self._arrays()))  # type: ignore[arg-type]

    def only(self, index: int) -> Channels:
        """One of them alone."""
        return Channels(self.positions, *(part[index : index + 1] for part in self._arrays()))  # type: ignore[arg-type]

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """float64[C], NaN without positions; a non-finite value counts as 0."""
        return self.total / self.positions if self.positions else np.full(len(self), math.nan)

    @property
    def variance(self) -> npt.NDArray[np.float64]:
        """float64[C], divided by the number of positions."""
        if not self.positions:
            return np.full(len(self), math.nan)
        return np.maximum(self.squares / self.positions - self.mean**2, 0.0)

    @property
    def rms(self) -> npt.NDArray[np.float64]:
        """float64[C], NaN without positions."""
        return np.sqrt(self.squares / self.positions) if self.positions else np.full(len(self), math.nan)

    @property
    def rms_kurtosis(self) -> float:
        """mean(s**4) / mean(s**2)**2 over the channels' rms s: 1 where all are alike, C where one has everything.

        NaN where all are 0. He et al., Understanding and Minimising Outlier Features, 2024, eq. 1.
        """
        squares = self.squares / max(self.positions, 1)
        mean = float(squares.mean())
        return float(np.mean(squares**2)) / mean**2 if mean > 0 else math.nan

    def top(self, k: int) -> frozenset[int]:
        """The k channels of largest rms; none where nothing was seen."""
        return (
            frozenset(np.argsort(-self.squares, kind="stable")[:k].tolist())
            if self.squares.any()
            else frozenset()
        )

    def always_on(self, share: float = ALWAYS_ON) -> npt.NDArray[np.bool_]:
        """bool[C]: fired at `share` of the positions or more."""
        return np.greater_equal(self.fires, share * self.positions) & (self.positions > 0)

    def dead(self) -> npt.NDArray[np.bool_]:
        """bool[C]: seen and never fired. `dead_rate_bound` says how rarely such a channel may still fire."""
        return np.equal(self.fires, 0) & (self.positions > 0)

    def saturated(self) -> npt.NDArray[np.bool_]:
        """bool[C]: at half of its positions or more |x| was within a hundredth of the channel's own largest.

        With share s of |x| above q = 0.99 of the largest m, the mean of x**2 is at most (s + (1 - s) q**2) m**2, so
        sums tell the least that s can be. A channel near its bound less steadily than about 99% is not called so.
        """
        whole = self.positions * self.absmax**2
        least = (self.squares - NEAR_BOUND**2 * whole) >= 0.5 * (1 - NEAR_BOUND**2) * whole
        return least & (self.absmax > 0) & (self.positions >= LEAST_POSITIONS)

    @property
    def dead_rate_bound(self) -> float:
        """Upper 95% bound of the firing rate of a dead channel: the rule of three, Hanley 1983."""
        return min(1.0, 3.0 / self.positions) if self.positions else 1.0

    def _arrays(self) -> tuple[npt.NDArray[np.int64] | npt.NDArray[np.float64], ...]:
        return self.fires, self.total, self.squares, self.absmax, self.outliers
