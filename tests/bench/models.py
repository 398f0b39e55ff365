"""Models whose cost is measured: random weights, as served through `source = "tests.bench.models:..."`."""

from itertools import pairwise
from typing import Any

import torch
from torch import nn

from sidecar.demo.model import Block
from tests.bench.kernel import naive

WIDTH, HEADS, TOKENS = 768, 12, 16
IMAGE = (3, 32, 32)


class Encoder(nn.Module):
    """[batch, 16, 768] -> [batch, 768]: pre-norm transformer blocks of BERT-base's width."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x.mean(dim=1)


class Residual(nn.Module):
    """Two 3x3 convolutions and a way past them (He 2015)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outside)
        self.second = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outside)
        self.past = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(y)) + self.past(x))


class ResidualNet(nn.Module):
    """[batch, 3, 32, 32] -> [batch, 10]: four stages of two blocks each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        widths = (64, 64, 128, 256, 512)
        self.stages = nn.ModuleList(
            nn.Sequential(Residual(inside, outside, 1 + (inside != outside)), Residual(outside, outside, 1))
            for inside, outside in pairwise(widths)
        )
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean(dim=(2, 3)))


def encoder() -> nn.Module:
    return Encoder(12)


def small_encoder() -> nn.Module:
    return Encoder(4)


def residual_net() -> nn.Module:
    return ResidualNet()


def watched_naively(model: nn.Module, blocks: nn.ModuleList) -> nn.Module:
    """The same statistics of the same places, by a forward hook of plain torch ops."""

    def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        naive(output.movedim(1, -1) if output.dim() == 4 else output)

    for block in blocks:
        block.register_forward_hook(hook)
    return model


def naive_encoder() -> nn.Module:
    model = Encoder(12)
    return watched_naively(model, model.blocks)


def naive_residual_net() -> nn.Module:
    model = ResidualNet()
    return watched_naively(model, model.stages)


def naive_digits() -> nn.Module:
    from sidecar.demo.model import build

    model = build()
    return watched_naively(model, model.blocks)
