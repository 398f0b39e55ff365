"""Triton's own load generator: fetched from PyPI, run against a server, and what it found."""

import csv
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tools.fetch import FetchError, runs, unpack

FOLDER = Path("build/bench/perf_analyzer").absolute()
WHEELS = {"tritonclient==2.49.0": "/perf_analyzer", "nvidia-cuda-runtime-cu12==12.9.79": "/libcudart.so.12"}
"""What to download -> how the name of the one file of it that is wanted ends."""
PACKAGES = ("libb64-0d",)
LIBRARIES = FOLDER / "root/usr/lib/x86_64-linux-gnu"


def fetched() -> bool:
    """Whether it lies here and starts."""
    return runs(FOLDER / "perf_analyzer", _environ())


def fetch() -> None:
    """Put the program and the libraries that it needs beside each other. Raises FetchError."""
    if fetched():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, *WHEELS]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise FetchError((done.stderr.strip().splitlines() or ["pip gave no reason"])[-1])
        for wheel in Path(folder).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if name.endswith(tuple(WHEELS.values())):
                        target = FOLDER / name.rpartition("/")[2]
                        target.write_bytes(archive.read(name))
                        target.chmod(0o755)
    unpack(FOLDER, os.environ["PATH"], PACKAGES)
    if not fetched():
        raise FetchError("perf_analyzer does not start on this machine")


def run(address: str, model: str, options: Sequence[str]) -> dict[str, float]:
    """One load on `model` over gRPC; the columns of the report, times in microseconds.

    Raises RuntimeError, with all it printed, where it did not get to its report.
    """
    with TemporaryDirectory() as folder:
        report = Path(folder, "report.csv")
        command = [FOLDER / "perf_analyzer", "-m", model, "-u", address, "-i", "grpc", "-f", report, *options]
        done = subprocess.run(
            command, env=_environ(), capture_output=True, text=True, check=False, timeout=120
        )
        if done.returncode or not report.exists():
            raise RuntimeError(f"perf_analyzer ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        (row,) = csv.DictReader(report.read_text().splitlines())
    return {name: float(value) for name, value in row.items()}


def _environ() -> dict[str, str]:
    return {**os.environ, "LD_LIBRARY_PATH": f"{FOLDER}:{LIBRARIES}"}
