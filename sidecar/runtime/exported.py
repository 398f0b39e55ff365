"""Packages of `torch.export`, and their tap points: a graph remembers the modules that it was traced from."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from zipfile import BadZipFile

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass
from torch.fx import GraphModule, Node

from sidecar.errors import ModelError
from sidecar.runtime import modules
from sidecar.runtime.trial import MODEL_FAULTS
from sidecar.types import TapPoint

SUFFIX = ".pt2"

_LOADING_FAULTS = (*MODEL_FAULTS, OSError, EOFError, UnpicklingError, BadZipFile)


def load(path: Path, device: torch.device, *, trust: bool) -> tuple[ExportedProgram, int]:
    """What the package holds, and how many inputs it takes by position; the others it takes by name.

    Raises ModelError for a file that is no such package, and without `trust`: unpickling runs code.
    """
    if not trust:
        raise ModelError(
            f"path {path} is a torch.export package: loading it runs code that it carries. "
            "Set trust = true if you trust who made it"
        )
    # A package of a Hugging Face model returns one of the library's classes, which torch must know to read it.
    with suppress(ModuleNotFoundError):
        import_module("transformers.modeling_outputs")
    try:
        program: ExportedProgram = torch.export.load(path)
        positional = program.call_spec.in_spec.child(0).num_children if program.call_spec.in_spec else 0
        return move_to_device_pass(program, device), positional
    except _LOADING_FAULTS as error:
        raise ModelError(f"path {path} is no torch.export package that can be loaded: {error}") from error


@dataclass(slots=True)
class _Run:
    """One call of a module: its part of the graph. kind: the module's class by full name."""

    module: str
    kind: str
    nodes: list[Node] = field(default_factory=list)

    def activation(self) -> Node | None:
        """What the module returned first, as far as a graph can tell; None when it was not floating-point.

        It is the last of what is used outside, because a block computes what it returns at its end, and of several
        results of one operation, as an LSTM has, the first.
        """
        inside = set(self.nodes)
        used = [node for node in self.nodes if _is_activation(node) and not inside.issuperset(node.users)]
        if not used:
            return None
        last = used[-1]
        return next((node for node in used if _several(node) and _several(node) is _several(last)), last)


def _is_activation(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() > 0


def _several(node: Node) -> object:
    """The operation of several results that `node` takes one of; None for any other node."""
    return node.args[0] if node.target is operator.getitem else None


def _runs(model: GraphModule) -> list[_Run]:
    """Every call of every module but the whole, in the order in which they began."""
    runs: dict[tuple[str, str], _Run] = {}
    for node in model.graph.nodes:
        if node.op != "call_function":
            continue
        # A key tells the calls of one module apart; a path names the module, with a mark on later calls.
        for key, (path, kind) in node.meta.get("nn_module_stack", {}).items():
            name = path.partition("@")[0]
            if name and key != name:
                runs.setdefault((key, name), _Run(name, _full_name(kind))).nodes.append(node)
    return list(runs.values())


def _full_name(kind: str | type) -> str:
    return kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def tap_points(model: GraphModule) -> list[TapPoint]:
    """Every module whose activation is a value of the graph, named as in the model that was exported."""
    runs = _runs(model)
    seen = {run.module for run in runs if run.activation()}
    return [point for point in modules.tap_points(_skeleton(model, runs)) if point.name in seen]


def _skeleton(model: GraphModule, runs: Sequence[_Run]) -> nn.Module:
    """The tree of modules that ran, with their classes and parameters, for the rules about modules to look at."""
    root = nn.Module()
    classes: dict[str, type[nn.Module]] = {}
    for run in runs:
        parent = _grow(root, run.module)
        last = run.module.rpartition(".")[2]
        if last not in parent._modules:
            kind = classes.setdefault(run.kind, _module_class(run.kind))
            module = kind.__new__(kind)
            nn.Module.__init__(module)
            parent.add_module(last, module)
    for name, parameter in model.named_parameters():
        _grow(root, name).register_parameter(name.rpartition(".")[2], parameter)
    return root


def _grow(root: nn.Module, name: str) -> nn.Module:
    """The module that holds `name`. Those on the way that never ran are lists where they hold numbers."""
    parts = name.split(".")
    for part, held in pairwise(parts):
        if part not in root._modules:
            root.add_module(part, nn.ModuleList() if held.isdigit() else nn.Module())
        root = root.get_submodule(part)
    return root


def _module_class(name: str) -> type[nn.Module]:
    """One of torch's own layers, else an empty class that stands for it: all blocks of one class stay alike."""
    last = name.rpartition(".")[2]
    own = getattr(nn, last, None)
    if isinstance(own, type) and issubclass(own, nn.Module) and _full_name(own) == name:
        return own
    return type(last, (nn.Module,), {})


class _Call(nn.Module):
    """A callable as a part of a graph."""

    def __init__(self, call: Callable[[torch.Tensor], None]) -> None:
        super().__init__()
        self._call = call

    def forward(self, x: torch.Tensor) -> None:
        self._call(x)


def apart(model: GraphModule) -> GraphModule:
    """`model` with buffers of its own. A graph uses one name of each, however many the module had."""
    for module in model.modules():
        for name, held in module.named_buffers(recurse=False, remove_duplicate=False):
            setattr(module, name, held.clone())
    return model


def install(model: GraphModule, calls: Mapping[str, Callable[[torch.Tensor], None]]) -> Callable[[], None]:
    """Put a call behind each run of each named module: where a hook would stand, before anything else changes x.

    Returns what takes them away.
    """
    added: list[Node] = []
    for number, run in enumerate(_runs(model)):
        call, activation = calls.get(run.module), run.activation()
        if call is None or activation is None:
            continue
        name = f"_tap_{number}"
        model.add_module(name, call if isinstance(call, nn.Module) else _Call(call))
        with model.graph.inserting_after(run.nodes[-1]):
            added.append(model.graph.call_module(name, (activation,)))
    model.recompile()

    def remove() -> None:
        for node in added:
            model.graph.erase_node(node)
            model.delete_submodule(str(node.target))
        model.recompile()

    return remove
