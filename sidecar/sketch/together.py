"""How the channels of a tap go together with one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sidecar.errors import SketchError


@dataclass(slots=True, eq=False)
class Together:
    """Sums over positions, and counts of inputs, of C channels beside the channel `unit`; non-finite values are 0.

    A channel fires in an input if |x| is above the near-zero bound at any of its positions.
    total, squares, products: float64[C], sums of x, of x**2 and of x times the unit's x. fires, both: int64[C],
    inputs in which the channel fires, and in which the unit does too.
    """

    unit: int
    inputs: int
    positions: int
    total: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    products: npt.NDArray[np.float64]
    fires: npt.NDArray[np.int64]
    both: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, channels: int, unit: int) -> Together:
        total, squares, products = np.zeros((3, channels))
        fires, both = np.zeros((2, channels), dtype=np.int64)
        return cls(unit, 0, 0, total, squares, products, fires, both)

    @classmethod
    def of_input(cls, x: npt.NDArray[Any], unit: int, near_zero: float) -> Together:
        """x: float [..., C], all positions of one input."""
        flat = x.reshape(-1, x.shape[-1])
        wide = np.where(np.isfinite(flat), flat, 0.0).astype(np.float64)
        fires: npt.NDArray[np.int64] = np.any(np.abs(wide) > near_zero, axis=0).astype(np.int64)
        return cls(
            unit,
            1,
            len(flat),
            wide.sum(axis=0),
            (wide**2).sum(axis=0),
            wide.T @ wide[:, unit],
            fires,
            fires * fires[unit],
        )

    def merge(self, other: Together) -> None:
        """Raises SketchError where they are of other channels."""
        if (self.unit, self.total.size) != (other.unit, other.total.size):
            raise SketchError(
                f"channel {other.unit} of {other.total.size} is not {self.unit} of {self.total.size}"
            )
        self.inputs += other.inputs
        self.positions += other.positions
        for name in ("total", "squares", "products", "fires", "both"):
            ours = getattr(self, name)
            np.add(ours, getattr(other, name), out=ours)

    @property
    def correlation(self) -> npt.NDArray[np.float64]:
        """float64[C]: Pearson's, over positions; NaN where either channel does not vary."""
        n, unit = max(self.positions, 1), self.unit
        covariance = self.products / n - self.total / n * (self.total[unit] / n)
        variance = self.squares / n - (self.total / n) ** 2
        # What is less than rounding leaves of equal values is no variance.
        variance[variance <= 1e-12 * self.squares / n] = np.nan
        with np.errstate(invalid="ignore"):
            found: npt.NDArray[np.float64] = covariance / np.sqrt(variance * variance[unit])
        return found.clip(-1.0, 1.0)

    @property
    def lift(self) -> npt.NDArray[np.float64]:
        """float64[C]: how many times as often both fire in an input as if neither knew of the other.

        NaN where one never fires. Brin, Motwani, Ullman, Tsur, SIGMOD 1997, where it is called interest.
        """
        expected = self.fires * self.fires[self.unit]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(expected > 0, self.both * self.inputs / expected, np.nan)
