"""Hugging Face models from a local folder: `config.json` and safetensors; nothing is downloaded, no code is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from sidecar.errors import ConfigError, ModelError

CONFIG = "config.json"

_LOADING_FAULTS = (OSError, ValueError, RuntimeError, LookupError, ImportError, AttributeError, TypeError)


def load(folder: Path) -> nn.Module:
    """The model of the class that `architectures` in the folder's `config.json` names first.

    Raises ConfigError without the library, ModelError for a folder that does not hold such a model whole.
    """
    try:
        import transformers
        from transformers.utils.logging import disable_progress_bar
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"path {folder} is a Hugging Face folder, which needs {error.name}: "
            "pip install 'activation-sidecar[transformers]'"
        ) from error
    disable_progress_bar()  # type: ignore[no-untyped-call]
    kind = _model_class(transformers, folder)
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        # A folder may name kernels to be fetched; None lets the library choose among its own, in every part.
        config._attn_implementation = config._experts_implementation = None
        config.use_cache = False
        model, report = kind.from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except _LOADING_FAULTS as error:
        raise ModelError(f"path {folder} cannot be loaded: {error}") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"path {folder} lacks the weights {', '.join(missing)}")
    loaded: nn.Module = model
    return loaded


def _model_class(library: Any, folder: Path) -> Any:
    try:
        described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        name = described["architectures"][0]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelError(f"path {folder} has no {CONFIG} that names its `architectures`: {error}") from error
    kind = getattr(library, name, None) if isinstance(name, str) else None
    if not isinstance(kind, type) or not issubclass(kind, library.PreTrainedModel):
        raise ModelError(
            f"path {folder} is a {name}, which is no model of transformers {library.__version__}"
        )
    return kind
