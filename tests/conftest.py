"""Programs that are no Python packages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ROOT / ".tools" / "bin"

Program = Callable[[str], Path]


@pytest.fixture(scope="session")
def program() -> Program:
    """Where a program lies: `.tools/bin` first, then PATH. Without it the test is skipped, under CI=true it fails."""

    def find(name: str) -> Path:
        if found := shutil.which(name, path=str(TOOLS)) or shutil.which(name):
            return Path(found)
        absence = f"{name} is not on this machine; `make tools` fetches it"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(absence)
        pytest.skip(absence)

    return find
