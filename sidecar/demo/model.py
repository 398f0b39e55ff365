"""The demo's model: a small vision transformer over 8x8 images of handwritten digits."""

from __future__ import annotations

import torch
from torch import nn

SIDE = 8
PATCH = 2
CLASSES = 10
WIDTH = 128
BLOCKS = 6
HEADS = 4


class Block(nn.Module):
    """Pre-norm transformer block; its output is the residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.mixer = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        mixed = self.mixer(self.norm_attention(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + self.projection(attended.transpose(1, 2).reshape(batch, tokens, width))
        output: torch.Tensor = x + self.mlp(self.norm_mlp(x))
        return output


class DigitClassifier(nn.Module):
    """Images [batch, 64], pixels 0..16 -> logits [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        tokens = (SIDE // PATCH) ** 2
        self.embed = nn.Linear(PATCH * PATCH, WIDTH)
        self.position = nn.Parameter(torch.randn(1, tokens, WIDTH))
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        side = SIDE // PATCH
        patches = (
            pixels.view(-1, side, PATCH, side, PATCH).transpose(2, 3).reshape(-1, side * side, PATCH * PATCH)
        )
        x = self.embed(patches / 8 - 1) + self.position
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.head(self.norm(x).mean(dim=1))
        return logits


def build() -> DigitClassifier:
    """Factory for `source = "sidecar.demo.model:build"`."""
    return DigitClassifier()
