"""Activation sidecar: serve a model over gRPC and see what happens inside it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from sidecar.attached import Attached
    from sidecar.types import Clock

__version__ = "0.1.0"


def attach(
    model: nn.Module,
    config: Path | str,
    *,
    name: str | None = None,
    environ: Mapping[str, str] = os.environ,
    clock: Clock = time.time,
) -> Attached:
    """Observe `model`, which this process serves by itself, and export its metrics on `server.http_port`.

    config: the file that `sidecar serve` would take, with SIDECAR_* of `environ` over it. Inputs, outputs, taps,
        baseline and device of the model are used; `source` and `weights` are for `sidecar check` and
        `sidecar baseline record` alone. name: of the model in it, where there are several.

    Raises ConfigError or BaselineError for wrong settings. A model that cannot be observed runs on as it is.

    >>> attached = sidecar.attach(model, "sidecar.toml")  # doctest: +SKIP
    >>> attached.close()  # doctest: +SKIP
    """
    from sidecar import settings
    from sidecar.attached import Attached

    return Attached(model, settings.load(Path(config), environ), name, clock)
