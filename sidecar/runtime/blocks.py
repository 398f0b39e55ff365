"""What a torch model is made of: the residual blocks of a transformer, the stages of a convolutional network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sidecar.types import Site


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the model of one depth.

    name: of the module that it consists of. output: the module whose activation leaves it.
    """

    name: str
    output: str
    site: Site


@dataclass(frozen=True, slots=True)
class _Run:
    """A ModuleList or Sequential of at least two children of one class that have children themselves."""

    name: str
    module: nn.Module
    children: tuple[str, ...]

    def inside(self, other: _Run) -> bool:
        return self is not other and self.name.startswith(f"{other.name}." if other.name else "")

    @property
    def weights(self) -> int:
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def convolutional(self) -> bool:
        return all(
            any(isinstance(module, nn.modules.conv._ConvNd) for module in child.modules())
            for child in self.module.children()
        )


def find_blocks(model: nn.Module) -> list[Block]:
    """Stages where there are several runs of convolutional blocks side by side, else the parts of the largest run.

    Stages change width and resolution, so each is watched where it ends; the blocks of one run share a residual
    stream. The parts of a convolutional run that consist of runs themselves are stages too, and their end is
    the part's own: the end of an inner run may lie before the residual is added. Empty when there is no run.
    """
    runs = [run for name, module in model.named_modules() if (run := _run(name, module))]
    if not runs:
        return []
    outermost = [run for run in runs if not any(run.inside(other) for other in runs)]
    largest = max(outermost, key=lambda run: run.weights)
    stages = [run for run in outermost if run.convolutional]
    if len(stages) > 1 and (
        largest.convolutional or sum(stage.weights for stage in stages) > largest.weights
    ):
        return [Block(stage.name, stage.children[-1], "stage") for stage in stages]
    staged = largest.convolutional and any(run.inside(largest) for run in runs)
    return [Block(child, child, "stage" if staged else "resid") for child in largest.children]


def _run(name: str, module: nn.Module) -> _Run | None:
    if not isinstance(module, nn.ModuleList | nn.Sequential):
        return None
    children = dict(module.named_children())
    kinds = {type(child) for child in children.values()}
    if len(children) < 2 or len(kinds) > 1 or not all(any(child.children()) for child in children.values()):
        return None
    return _Run(name, module, tuple(f"{name}.{child}" if name else child for child in children))
