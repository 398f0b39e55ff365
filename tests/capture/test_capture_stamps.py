"""numba takes compiled code out of its cache while the text of the file is the same, whatever is compiled into it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sidecar import capture
from sidecar.capture import columns, kernel_cpu, logits_cpu
from sidecar.sketch import BINS, PROJECTIONS, SIGN_HASH

FOLDER = Path(capture.__file__).parent
COMPILED = {
    kernel_cpu: ("columns.py", "layout.py", "vector_block.py"),
    columns: ("vector_block.py",),
    logits_cpu: ("layout.py",),
}


@pytest.mark.parametrize("module", COMPILED, ids=lambda module: module.__name__)
def test_a_file_of_compiled_code_names_what_else_is_compiled_into_it(module):
    """After a change of one of these files write the expected text into the module."""
    parts = [(FOLDER / name).read_bytes() for name in COMPILED[module]]
    parts.append(repr((BINS, PROJECTIONS, SIGN_HASH)).encode())
    assert hashlib.sha256(b"".join(parts)).hexdigest()[:16] == module.COMPILED_WITH
