"""Models that cannot be observed, named in settings as `tests.app.factories:...`."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


class Noisy(nn.Module):
    """Never answers the same twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + torch.rand(())


class NoisyAlone(Noisy):
    """Never answers a batch of one the same twice."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if len(x) == 1 else self.layer(x)


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


class Block(nn.Module):
    """Residual feed-forward of one width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(self.norm(x))


class Residual(nn.Module):
    """Pixels [batch, 64] -> logits [batch, 10] by two residual blocks; the same weights each time it is made."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block(64) for _ in range(2))
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Identity(nn.Module):
    """What comes is what goes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


TOKENS = 100


class Tagger(nn.Module):
    """Token t -> tags t, t, t, t, through an activation [rows, positions, 4] of the same."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.layer = nn.Identity()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.layer(tokens[..., None].float() * self.weight)

    @staticmethod
    def tags(tokens: np.ndarray) -> np.ndarray:
        return np.repeat(tokens[..., None], 4, -1).astype(np.float32)


class Flattened(Tagger):
    """Its activation has the positions of all rows in dimension 0."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        embedded = tokens[..., None].float() * self.weight
        return self.layer(embedded.flatten(0, 1)).view(embedded.shape)


class Crossed(Tagger):
    """Its activation has the positions twice, as attention weights do."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        pairs = tokens[:, :, None].float() @ tokens[:, None, :].float()
        return self.layer(pairs[..., None].expand(-1, -1, -1, 4))[:, :, 0] + self.weight


class Shortened(Tagger):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return super().forward(tokens)[:, :3]


class Two(Tagger):
    def forward(self, tokens: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        return super().forward(tokens + more)
