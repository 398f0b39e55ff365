"""Models that cannot be observed, named in settings as `tests.app.factories:...`."""

from __future__ import annotations

import torch
from torch import nn


class Noisy(nn.Module):
    """Never answers the same twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + torch.rand(())


class Gram(nn.Module):
    """The width of its activation is the size of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x @ x.T) @ x


class Unbatched(nn.Module):
    """A matrix [4, 3], no batch -> its row sums [4]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).sum(1)
