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


@dataclass
class Answer:
    extra: None
    y: torch.Tensor
    z: torch.Tensor


class Structured(nn.Module):
    def forward(self, x: torch.Tensor) -> Answer:
        return Answer(None, x + 1, -x)


class WithNothing(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return x + 1, None


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


class Block(nn.Module):
    """Attention by name only, and a residual feed-forward."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.attn = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(self.attn(x))


class Transformer(nn.Module):
    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Residual1d(nn.Module):
    """A residual block of convolutions over [B, C, L] or, with another `convolution`, over [B, C, H, W]."""

    def __init__(self, width: int, convolution: type[nn.Module] = nn.Conv1d) -> None:
        super().__init__()
        self.conv = convolution(width, width, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.relu(self.conv(x))


def stage(width: int, blocks: int) -> nn.Module:
    return nn.Sequential(*(Residual1d(width, nn.Conv2d) for _ in range(blocks)))


class Stages(nn.Module):
    """Two stages of convolutions, the second with more weights, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = stage(3, 2)
        self.widen = nn.Conv2d(3, 6, 1)
        self.layer2 = stage(6, 3)
        self.fc = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer2(self.widen(self.layer1(x))).mean((2, 3)))


class Nested(nn.Module):
    """Stages that hold their blocks in a list, as Hugging Face's image models do."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(StageOfBlocks(4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for each in self.stages:
            x = each(x)
        return x


class Bottleneck(nn.Module):
    """Adds the residual after what looks like blocks of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(Residual1d(width), Residual1d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


class StageOfBlocks(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Bottleneck(width) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Backboned(nn.Module):
    """Two small convolutional stages before the blocks of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(stage(2, 2), nn.Conv2d(2, 3, 1), stage(3, 2))
        self.blocks = nn.ModuleList(Block(40) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.backbone(x).flatten(1)
        for block in self.blocks:
            x = block(x)
        return x
