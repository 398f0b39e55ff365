"""Tap points of a torch model: its modules, seen by forward hooks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, is_dataclass

import torch
from torch import nn

from sidecar.runtime.blocks import Block, find_blocks
from sidecar.types import Site, TapPoint

_SITES: tuple[tuple[re.Pattern[str], Site], ...] = (
    (re.compile(r"(^|_)(attn|attention|self_attn|mha)$"), "attn_out"),
    (re.compile(r"(^|_)(mlp|ffn|feed_forward|feedforward)$"), "mlp_out"),
    (re.compile(r"(^|_)(head|classifier|lm_head|logits|fc)$"), "logits"),
)

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.GroupNorm,
)
# Exact classes: image models subclass LayerNorm to normalise dimension 1.
_CHANNELS_LAST = frozenset(
    {nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.MultiheadAttention, nn.RNN, nn.GRU, nn.LSTM}
)


def tap_points(model: nn.Module) -> list[TapPoint]:
    """Every module with a name, in the model's order; lists and dicts of modules never run and are left out."""
    blocks = find_blocks(model)
    return [
        _point(model, name, blocks)
        for name, module in model.named_modules()
        if name and not isinstance(module, nn.ModuleList | nn.ModuleDict)
    ]


def _point(model: nn.Module, name: str, blocks: Sequence[Block]) -> TapPoint:
    number = next((i for i, block in enumerate(blocks) if f"{name}.".startswith(f"{block.name}.")), None)
    default = number is not None and blocks[number].output == name
    site = blocks[number].site if number is not None and default else _site(name)
    return TapPoint(name, site, number, _channel_dim(model, name), default)


def _site(name: str) -> Site:
    last = name.rpartition(".")[2]
    return next((site for pattern, site in _SITES if pattern.search(last)), name)


def _channel_dim(model: nn.Module, name: str) -> int | None:
    """By the modules inside, or those around one that says nothing, as an activation function; None if they differ."""
    while True:
        inside = model.get_submodule(name).modules()
        known = {dim for module in inside if (dim := _known_channel_dim(module)) is not None}
        if known or not name:
            return known.pop() if len(known) == 1 else None
        name = name.rpartition(".")[0]


def _known_channel_dim(module: nn.Module) -> int | None:
    if isinstance(module, _CHANNELS_FIRST):
        return 1
    return -1 if type(module) in _CHANNELS_LAST else None


def first_tensor(output: object) -> torch.Tensor | None:
    """The activation in what a module returned: itself, or the first tensor of a tuple, mapping or dataclass."""
    if isinstance(output, torch.Tensor):
        return output
    return next((found for member in _members(output) if (found := first_tensor(member)) is not None), None)


def _members(output: object) -> Iterator[object]:
    if isinstance(output, Mapping):
        yield from output.values()
    elif isinstance(output, Sequence) and not isinstance(output, str | bytes):
        yield from output
    elif is_dataclass(output):
        yield from (getattr(output, field.name) for field in fields(output))


def install(model: nn.Module, calls: Mapping[str, Callable[[torch.Tensor], None]]) -> Callable[[], None]:
    """Put a forward hook on each named module. Returns what takes them away."""
    modules, hooks = dict(model.named_modules()), ExitStack()
    for name, call in calls.items():
        hooks.callback(modules[name].register_forward_hook(_hook(call)).remove)
    return hooks.close


def _hook(call: Callable[[torch.Tensor], None]) -> Callable[[nn.Module, object, object], None]:
    def hook(_module: nn.Module, _args: object, output: object) -> None:
        # Most outputs are tensors, and a call costs as much as a small fold.
        x = output if isinstance(output, torch.Tensor) else first_tensor(output)
        if x is not None:
            call(x)

    return hook
