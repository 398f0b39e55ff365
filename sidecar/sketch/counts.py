"""Plain counts of a tap."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(slots=True)
class Counts:
    """values: everything seen, non-finite values included.

    near_zeros: finite |x| at or below the near-zero bound, zeros included.
    subnormals: in the tensor's own format. outliers: finite |x| >= 6, LLM.int8() (Dettmers 2022).
    positions: vectors seen (one for each token or pixel). requests: requests they came from.
    """

    values: int = 0
    zeros: int = 0
    near_zeros: int = 0
    nan: int = 0
    pos_inf: int = 0
    neg_inf: int = 0
    subnormals: int = 0
    outliers: int = 0
    positions: int = 0
    requests: int = 0

    def merge(self, other: Counts) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def copy(self) -> Counts:
        return replace(self)

    @property
    def nonfinite(self) -> int:
        return self.nan + self.pos_inf + self.neg_inf
