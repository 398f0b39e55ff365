"""What a GPU machine may lack."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import importlib, sys

class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
for name in {modules!r}:
    importlib.import_module(name)
"""

BEYOND_TORCH = (
    "google", "grpc_health", "grpc_reflection", "hypothesis", "llvmlite", "numba", "pytest_asyncio", "rich",
    "safetensors", "sklearn", "starlette", "typer", "uvicorn",
)  # fmt: skip


def imports(modules, absent):
    program = PROGRAM.format(absent=absent, modules=modules)
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.skipif(not find_spec("triton"), reason="triton is there for Linux only")
def test_the_tests_and_the_benchmark_for_a_gpu_need_only_torch_triton_numpy_and_pydantic():
    imports(["sidecar.capture.cuda.launch", "tests.gpu.conftest", "tests.bench.gpu"], BEYOND_TORCH)


def test_capture_needs_no_triton_on_a_cpu():
    imports(["sidecar.capture", "sidecar.capture.launch_cpu"], ("triton",))
