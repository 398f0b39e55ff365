"""What tests of several parts need: programs that are no Python packages, a certificate, the demo's trained model."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

from sidecar.server import core

# As `sidecar serve` does, so that tests meet the core as requests do.
core.set_up(os.environ)

# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

ROOT = Path(__file__).parent.parent
TOOLS = ROOT / ".tools" / "bin"

Program = Callable[[str], Path]


@pytest.fixture(autouse=True)
def as_if_nobody_had_configured_the_log() -> Iterator[None]:
    """Commands that run in the tests' process configure the log for good, on a stream that is closed by then."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    logging.captureWarnings(False)


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


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem for `localhost` and 127.0.0.1, and its key.pem."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl program to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    arguments = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem"
    )
    subprocess.run(["openssl", *arguments.split()], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def demo_weights() -> Path:
    """The demo's trained weights, where `sidecar demo` looks for them under XDG_CACHE_HOME=build."""
    from sidecar.demo import training
    from sidecar.demo.run import WEIGHTS, cache_folder

    return training.weights(cache_folder({"XDG_CACHE_HOME": str(ROOT / "build")}) / WEIGHTS, lambda _: None)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a model of `tests.runtime.exports` -> its ONNX file, exported once."""
    from tests.runtime.exports import export

    folder = tmp_path_factory.mktemp("onnx")
    return cache(lambda name: export(name, folder / f"{name}.onnx"))


class Authority:
    """A certificate authority of the tests' own, in a folder: `issue` makes certificates that it signed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate = folder / "ca.pem"
        request = "req -x509 -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"
        self._openssl(f"{request} {_KEY} -addext basicConstraints=critical,CA:TRUE")

    def issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key for `localhost` and 127.0.0.1, with `name` as the common name."""
        self._openssl(f"req -subj /CN={name} -keyout {name}.key -out {name}.csr {_KEY}")
        (self._folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        signed = f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2"
        self._openssl(f"{signed} -extfile names -out {name}.pem")
        return self._folder / f"{name}.pem", self._folder / f"{name}.key"

    def _openssl(self, arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], cwd=self._folder, check=True, capture_output=True)


_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"


@pytest.fixture(scope="session")
def make_authority(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Authority]:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl program to make certificates")
    return lambda: Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def authority(make_authority: Callable[[], Authority]) -> Authority:
    return make_authority()
