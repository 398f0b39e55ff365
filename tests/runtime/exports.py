"""Small torch models and their ONNX exports: transformers with norms of several kinds, a convolutional network."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

WIDTH, HEADS, TOKENS, BLOCKS, WORDS = 64, 4, 16, 2, 100


class WrittenOut(nn.Module):
    """A LayerNorm in the primitives that exporters before opset 17 write."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.bias = nn.Parameter(torch.randn(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight + self.bias


class Rms(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def rotated(x: torch.Tensor) -> torch.Tensor:
    """A rotary position embedding: an Add of two values that come from one, and yet no residual add."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2])[:, None] * torch.exp(-torch.arange(half) / half)[None]
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * torch.cat([angle, angle], -1).cos() + turned * torch.cat([angle, angle], -1).sin()


class Attention(nn.Module):
    def __init__(self, rotary: bool) -> None:
        super().__init__()
        self.rotary = rotary
        self.mixer = nn.Linear(WIDTH, 3 * WIDTH)
        self.projection = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        mixed = self.mixer(x).view(batch, tokens, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        query, key, value = mixed
        if self.rotary:
            query, key = rotated(query), rotated(key)
        scores = (query @ key.transpose(-1, -2) / 4 + mask).softmax(-1) @ value
        out: torch.Tensor = self.projection(scores.transpose(1, 2).reshape(batch, tokens, width))
        return out


class Block(nn.Module):
    def __init__(self, norm: Callable[[int], nn.Module], *, post: bool, rotary: bool) -> None:
        super().__init__()
        self.post = post
        self.norm_attention, self.norm_mlp = norm(WIDTH), norm(WIDTH)
        self.attention = Attention(rotary)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.post:
            x = self.norm_attention(x + self.attention(x, mask))
            out: torch.Tensor = self.norm_mlp(x + self.mlp(x))
            return out
        x = x + self.attention(self.norm_attention(x), mask)
        return x + self.mlp(self.norm_mlp(x))


class Transformer(nn.Module):
    """Words [batch, 16] -> logits [batch, 10]."""

    def __init__(
        self, norm: Callable[[int], nn.Module] = nn.LayerNorm, *, post: bool = False, rotary: bool = False
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.position = nn.Parameter(torch.randn(1, TOKENS, WIDTH))
        self.blocks = nn.ModuleList(Block(norm, post=post, rotary=rotary) for _ in range(BLOCKS))
        self.norm = norm(WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        mask = (words == WORDS - 1)[:, None, None, :] * -1e4
        x = self.embed(words) + self.position
        for block in self.blocks:
            x = block(x, mask)
        logits: torch.Tensor = self.head(self.norm(x).mean(1))
        return logits


class Residual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, stride, 1)
        self.second = nn.Conv2d(outside, outside, 3, 1, 1)
        self.shortcut = nn.Conv2d(inside, outside, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class Network(nn.Module):
    """Images [batch, 3, 32, 32] -> logits [batch, 10]; three stages of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.layer1 = nn.Sequential(Residual(16, 16, 1), Residual(16, 16, 1))
        self.layer2 = nn.Sequential(Residual(16, 32, 2), Residual(32, 32, 1))
        self.layer3 = nn.Sequential(Residual(32, 64, 2), Residual(64, 64, 1))
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        logits: torch.Tensor = self.head(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))
        return logits


MODELS: dict[str, Callable[[], nn.Module]] = {
    "pre-norm": Transformer,
    "post-norm": lambda: Transformer(post=True),
    "written-out": lambda: Transformer(WrittenOut),
    "rotary": lambda: Transformer(Rms, rotary=True),
    "network": Network,
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().eval()


def pre_norm() -> nn.Module:
    """Factory for `source = "tests.runtime.exports:pre_norm"`."""
    return build("pre-norm")


def network() -> nn.Module:
    """Factory for `source = "tests.runtime.exports:network"`."""
    return build("network")


def export(name: str, path: Path, *, external: bool = False) -> Path:
    """Write the model `name` with a symbolic batch dimension; inputs `x`, outputs `logits`."""
    example = torch.zeros(2, 3, 32, 32) if name == "network" else torch.zeros(2, TOKENS, dtype=torch.long)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            build(name),
            (example,),
            path,
            dynamo=True,
            input_names=["x"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=external,
        )
    return path
