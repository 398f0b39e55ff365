"""Where a torch model is watched: globs over module names, or the residual blocks found in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from sidecar.errors import ConfigError, ModelError
from sidecar.types import Site, Tap

_SITES: tuple[tuple[re.Pattern[str], Site], ...] = (
    (re.compile(r"(^|_)(attn|attention|self_attn|mha)$"), "attn_out"),
    (re.compile(r"(^|_)(mlp|ffn|feed_forward|feedforward)$"), "mlp_out"),
    (re.compile(r"(^|_)(head|classifier|lm_head|logits|fc)$"), "logits"),
)


def first_tensor(output: object) -> torch.Tensor | None:
    """The activation in what a module returned: itself, or the first tensor of a tuple, mapping or dataclass."""
    if isinstance(output, torch.Tensor):
        return output
    members: Sequence[object] = ()
    if isinstance(output, Mapping):
        members = list(output.values())
    elif isinstance(output, Sequence) and not isinstance(output, str | bytes):
        members = output
    elif is_dataclass(output):
        members = [getattr(output, field.name) for field in fields(output)]
    return next((found for member in members if (found := first_tensor(member)) is not None), None)


def residual_blocks(model: nn.Module) -> list[str]:
    """Names of the blocks of the largest run of like children: what a residual stream passes through.

    A run is a ModuleList or Sequential of at least two children of one class that have children themselves.
    """
    best: list[str] = []
    weight = 0
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        children = list(module.named_children())
        kinds = {type(child) for _, child in children}
        if len(children) < 2 or len(kinds) > 1 or not all(any(child.children()) for _, child in children):
            continue
        size = sum(parameter.numel() for parameter in module.parameters())
        if size > weight:
            best = [f"{name}.{child}" if name else child for child, _ in children]
            weight = size
    return best


def choose(model: nn.Module, globs: Sequence[str]) -> list[str]:
    """Module names to tap, in the model's own order; lists and dicts of modules never run and match nothing.

    Raises ConfigError for a glob that matches nothing, ModelError when there are no globs and no blocks.
    """
    never_run = nn.ModuleList | nn.ModuleDict
    names = [name for name, module in model.named_modules() if name and not isinstance(module, never_run)]
    if not globs:
        if blocks := residual_blocks(model):
            return blocks
        raise ModelError(
            "no residual blocks were found: name the modules in `taps`; `sidecar taps` lists them"
        )
    if missing := [glob for glob in globs if not any(fnmatchcase(name, glob) for name in names)]:
        raise ConfigError(f"taps {missing} match no module; `sidecar taps` lists what the model has")
    return [name for name in names if any(fnmatchcase(name, glob) for glob in globs)]


def site_of(name: str, blocks: Sequence[str]) -> Site:
    if name in blocks:
        return "resid"
    last = name.rpartition(".")[2]
    return next((site for pattern, site in _SITES if pattern.search(last)), name)


def channel_dimension(shape: tuple[int, ...]) -> int:
    """Convolutions, with four dimensions, keep channels in dimension 1; everything else in the last."""
    return 1 if len(shape) == 4 else -1


def channel_count(shape: tuple[int, ...]) -> int:
    """One where there is only the batch dimension."""
    return shape[channel_dimension(shape)] if len(shape) > 1 else 1


def describe(
    model: nn.Module, names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Tap, ...]:
    """Taps for `names`, with layers in depth order.

    shapes: of each module's output, as one run showed them, in the order in which the modules ran. A module
    inside a numbered block has that block's number; others count on from their neighbours.
    Raises ModelError for a module that did not run or gave no floating-point tensor.
    """
    if silent := sorted(set(names) - set(shapes)):
        raise ModelError(f"modules {silent} gave no activation in a trial run, so they cannot be tapped")
    blocks = residual_blocks(model)
    taps: list[Tap] = []
    layer = -1
    for name in sorted(names, key=list(shapes).index):
        inside = next((i for i, block in enumerate(blocks) if f"{name}.".startswith(f"{block}.")), None)
        layer = layer + 1 if inside is None else inside
        site = site_of(name, blocks)
        if any((tap.layer, tap.site) == (layer, site) for tap in taps):
            site = name
        taps.append(Tap(layer, site, name, channel_count(shapes[name])))
    return tuple(sorted(taps, key=lambda tap: tap.layer))


def trial_shapes(
    model: nn.Module, names: Sequence[str], run: Callable[[], object]
) -> dict[str, tuple[int, ...]]:
    """Output shape of each named module while `run` runs the model, in the order in which they finished."""
    modules = dict(model.named_modules())
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, output: object) -> None:
        tensor = first_tensor(output)
        if tensor is not None and tensor.is_floating_point() and tensor.dim() > 0:
            shapes.setdefault(name, tuple(tensor.shape))

    handles = [
        modules[name].register_forward_hook(lambda _module, _args, output, name=name: note(name, output))
        for name in names
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return shapes
