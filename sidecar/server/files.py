"""What stands in files that are replaced while the server runs: certificates and tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from sidecar.errors import ConfigError

logger = logging.getLogger("sidecar.server")

T = TypeVar("T")


class FromFiles(Generic[T]):
    """`value`, made of what `files` (setting -> path) hold, and made anew by `refresh` when that has changed.

    make: called with the contents in the order of `files`; raises ConfigError where they are of no use.
    problem: why the last good value stands although the files have changed, "" otherwise.
    Raises ConfigError where a file cannot be read or used at first.
    """

    def __init__(self, files: Mapping[str, Path], make: Callable[..., T]) -> None:
        self._files = files
        self._make = make
        self._contents = self._read()
        self.value = make(*self._contents)
        self.problem = ""

    @property
    def name(self) -> str:
        """The settings that name the files."""
        return ", ".join(self._files)

    def refresh(self) -> None:
        """Compares contents, not times: those of a file that is replaced can be older, or the same."""
        problem = ""
        try:
            contents = self._read()
            if contents != self._contents:
                value = self._make(*contents)
                if contents != self._read():
                    return  # half of the new files were there: the next time
                self.value, self._contents = value, contents
                logger.info("%s: the new content is used from now on", self.name)
        except ConfigError as error:
            problem = str(error)
        if problem and problem != self.problem:
            logger.error("%s; what was read before stays in use", problem)
        self.problem = problem

    def _read(self) -> tuple[bytes, ...]:
        return tuple(_bytes(f"server.{name}", path) for name, path in self._files.items())


def _bytes(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting} {path} cannot be read: {error.strerror}") from error
