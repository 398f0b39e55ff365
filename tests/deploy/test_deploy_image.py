"""The Dockerfile: what it promises, and its build stages run as a script in a clean folder, without downloads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).parent.parent.parent
TEXT = re.sub(r"\\\n\s*", " ", (ROOT / "deploy/Dockerfile").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
Stage = list[tuple[str, str]]


def stages() -> dict[str, Stage]:
    """Name of the stage -> its instructions and their arguments; FROM comes first."""
    found: dict[str, Stage] = {}
    for instruction, argument in re.findall(r"^([A-Z]+) (.*)$", TEXT, re.MULTILINE):
        if instruction == "FROM":
            found[argument.rpartition(" ")[2]] = []
        if found:
            found[next(reversed(found))].append((instruction, argument.strip()))
    return found


STAGES = stages()


def arguments(stage: str, instruction: str) -> list[str]:
    """Of every such instruction in the stage and those it is made from, the last first."""
    parent = STAGES[stage][0][1].split()[0]
    own = [argument for name, argument in reversed(STAGES[stage]) if name == instruction]
    return own + (arguments(parent, instruction) if parent in STAGES else [])


def test_the_stage_without_a_target_is_the_one_for_the_cpu() -> None:
    assert list(STAGES)[-1] == "cpu"


@pytest.mark.parametrize("stage", ["cpu", "cuda"])
def test_an_image_runs_as_a_user_without_rights(stage: str) -> None:
    assert arguments(stage, "USER")[0] == "10001:10001"


@pytest.mark.parametrize("stage", ["cpu", "cuda"])
def test_an_image_serves_and_can_be_asked_for_its_health(stage: str) -> None:
    (entry,), (health,) = arguments(stage, "ENTRYPOINT"), arguments(stage, "HEALTHCHECK")
    assert entry == '["sidecar"]'
    assert "sidecar" in PROJECT["scripts"]
    assert "/readyz" in health


@pytest.mark.parametrize("stage", ["cpu", "cuda"])
def test_every_cache_lies_in_the_one_folder_that_may_be_written(stage: str) -> None:
    caches = re.findall(r"(\w+_CACHE_DIR|HOME)=(\S+)", " ".join(arguments(stage, "ENV")))
    assert {name for name, _ in caches} == {"HOME", "NUMBA_CACHE_DIR", "TRITON_CACHE_DIR"}
    assert all(path.startswith("/tmp") for _, path in caches)


@pytest.mark.parametrize("stage", ["build-cpu", "build-cuda"])
def test_every_download_is_pinned(stage: str) -> None:
    installs = [run for run in arguments(stage, "RUN") if " install " in run]
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in run or "--no-deps" in run for run in installs)


@pytest.mark.parametrize("stage", ["build-cpu", "build-cuda"])
def test_the_extras_of_a_stage_exist(stage: str) -> None:
    (extras,) = [text.partition("=")[2] for text in arguments(stage, "ARG") if text.startswith("EXTRAS=")]
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


def copy(sources: list[str], target: Path) -> None:
    """As COPY does, of what .dockerignore leaves."""
    kept = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line[:1] == "!"
    ]
    for source in sources:
        assert any(fnmatch(source, pattern) for pattern in kept), f"{source} is ignored"
        if (ROOT / source).is_dir():
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source, target / source, dirs_exist_ok=True, ignore=skipped)
        else:
            shutil.copy2(ROOT / source, target / source)


@pytest.fixture(scope="module", params=["build-cpu", "build-cuda"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/opt/sidecar as the stage leaves it, with the package and none of its dependencies."""
    folder = tmp_path_factory.mktemp(request.param)
    (source := folder / "src").mkdir()
    # What builds the package, and nothing else of this environment.
    (tools := folder / "tools").mkdir()
    site = Path(setuptools.__file__).parent.parent
    for found in [site / "setuptools", site / "_distutils_hack", *site.glob("setuptools-*.dist-info")]:
        (tools / found.name).symlink_to(found)
    environ = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(tools),
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "EXTRAS": "cpu",
        "TORCH_INDEX": "",
    }
    for instruction, argument in STAGES["build"] + STAGES[request.param]:
        if instruction == "RUN":
            command = argument.replace("/opt/sidecar", str(folder / "sidecar"))
            subprocess.run(["sh", "-ec", command], cwd=source, env=environ, check=True)
        elif instruction == "COPY":
            copy(argument.split()[:-1], source)
    return folder / "sidecar"


def test_the_installed_package_is_the_one_of_the_repository(built: Path) -> None:
    (package,) = built.glob("lib/python*/site-packages/sidecar")
    files = {path.relative_to(ROOT / "sidecar") for path in (ROOT / "sidecar").rglob("*.py")}
    assert {path.relative_to(package) for path in package.rglob("*.py")} == files
    assert all((package / path).read_bytes() == (ROOT / "sidecar" / path).read_bytes() for path in files)
    assert (package / "py.typed").exists()


def test_the_installed_folder_has_the_command_and_no_pip(built: Path) -> None:
    names = {path.name for path in (built / "bin").iterdir()}
    assert "sidecar" in names
    assert not any(name.startswith("pip") for name in names)
