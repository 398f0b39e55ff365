"""KServe's own client, where a Python has it: the one that KSERVE_PYTHON names, or else `tests.bench.clients` made."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.types import TensorSpec
from tests.bench.clients import KSERVE_PYTHON

CLIENT = Path(__file__).with_name("kserve_client.py")


@pytest.fixture(scope="module")
def python():
    made = KSERVE_PYTHON if KSERVE_PYTHON.exists() else sys.executable
    candidate = os.environ.get("KSERVE_PYTHON", made)
    found = "import importlib.util, sys; sys.exit(importlib.util.find_spec('kserve') is None)"
    if subprocess.run([candidate, "-c", found], check=False).returncode:
        pytest.skip(
            "kserve is not here; `make test-full` fetches it, or KSERVE_PYTHON names a Python that has it"
        )
    return candidate


async def test_kserves_client_finds_its_way(serve, make_shelf, model, make_servable, python):
    specs = [TensorSpec("fp32", "FP32", (-1, 3)), TensorSpec("int64", "INT64", (-1, 3))]
    shelf = make_shelf(specs, echo=["1"])
    async with serve(make_servable(model.execute, specs), repository=shelf, admin=True) as address:
        process = await asyncio.create_subprocess_exec(
            python, CLIENT, address, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    values = {"fp32": [[pytest.approx(0.1), -2.5, 3.0]], "int64": [[1, -2, 2**62]]}
    assert json.loads(output.splitlines()[-1]) == {
        "live": True, "ready": True, "model ready": True, "raw": values, "typed": values, "raw id": "mine",
        "typed id": "mine", "versions": ["1"], "loaded": ["echo", True],
    }  # fmt: skip
