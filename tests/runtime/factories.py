"""Models for the tests of the torch runtime, named in settings as `tests.runtime.factories:...`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

not_callable = 3


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def identity() -> nn.Module:
    return nn.Identity()


def no_model() -> object:
    return [1, 2]


class Sum(nn.Module):
    def forward(self, *parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return sum(part.double() for part in parts), *parts


class Mapping(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"extra": x, "y": x + 1, "z": -x}


class Scalar(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class NotATensor(nn.Module):
    def forward(self, x: torch.Tensor) -> str:
        return "y"


@dataclass
class Handle:
    """Something that cannot be copied."""

    def __deepcopy__(self, memo: object) -> Handle:
        raise TypeError("a handle has no copy")


class Uncopyable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.handle = Handle()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Shared(nn.Module):
    """Tied weights, a buffer, and dropout that must be off."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.tensor(2.0))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.second(self.first(x))) * self.scale
