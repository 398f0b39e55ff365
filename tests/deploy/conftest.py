"""What kustomize makes of a folder, and of an overlay with components."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.deploy.objects import Objects

KUBERNETES = Path(__file__).parent.parent.parent / "deploy/kubernetes"


@pytest.fixture(scope="session")
def build(program: Callable[[str], Path]) -> Callable[[Path], Objects]:
    """Folder of an overlay -> the objects that kustomize makes of it."""

    @cache
    def built(folder: Path) -> Objects:
        done = subprocess.run(
            [program("kubectl"), "kustomize", folder], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return list(yaml.safe_load_all(done.stdout))

    return built


@pytest.fixture(scope="session")
def extend(
    build: Callable[[Path], Objects], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Objects]:
    """Overlay and components, by name -> the objects of an overlay of one's own that has both."""

    @cache
    def extended(overlay: str, *components: str) -> Objects:
        folder = tmp_path_factory.mktemp("own")
        there = os.path.relpath(KUBERNETES, folder)
        own = {
            "resources": [f"{there}/overlays/{overlay}"],
            "components": [f"{there}/components/{component}" for component in components],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(own))
        return build(folder)

    return extended
