"""What a model takes and gives, as its settings say, with the labels of its classes."""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.errors import ConfigError
from sidecar.settings import TensorSettings
from sidecar.types import TensorSpec


def specs(tensors: Sequence[TensorSettings]) -> tuple[TensorSpec, ...]:
    """Raises ConfigError where a file of labels cannot be read."""
    return tuple(TensorSpec(one.name, one.datatype, one.shape, _labels(one)) for one in tensors)


def _labels(tensor: TensorSettings) -> tuple[str, ...]:
    if tensor.labels is None:
        return ()
    try:
        return tuple(line.strip() for line in tensor.labels.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"labels {tensor.labels} of output {tensor.name} cannot be read: it must be a text file in UTF-8"
        ) from error
