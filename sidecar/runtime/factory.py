"""Models that a factory makes: `package.module:factory`, weights from safetensors."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sidecar.errors import ModelError


def build(source: str) -> nn.Module:
    """Import and call the factory `package.module:factory`. Raises ModelError."""
    module_name, _, attribute = source.partition(":")
    try:
        factory = getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ModelError(f"source {source} cannot be imported: {error}") from error
    if not callable(factory):
        raise ModelError(
            f"source {source} is a {type(factory).__name__}, must be a function that returns a torch.nn.Module"
        )
    model = factory()
    if not isinstance(model, nn.Module):
        raise ModelError(f"source {source} returned {type(model).__name__}, must return a torch.nn.Module")
    return model


def load_weights(model: nn.Module, path: Path) -> None:
    """Load safetensors strictly: every tensor of the model and no other. Raises ModelError."""
    try:
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise ModelError(f"weights {path} do not exist") from error
    except (SafetensorError, OSError) as error:
        raise ModelError(f"weights {path} are not a safetensors file: {error}") from error
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ModelError(f"weights {path} do not fit the model: {error}") from error
