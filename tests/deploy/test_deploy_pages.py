"""Figures and code in the pages on adopting and sizing, against the code that they speak of."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import sidecar
from sidecar.export.activations import SERIES_PER_TAP
from sidecar.settings import ExportSettings

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_the_page_on_sizing_knows_how_many_series_a_tap_makes() -> None:
    page = (DOCS / "sizing.md").read_text()
    assert (
        f"A tap makes {SERIES_PER_TAP} series; `export.max_series` ({ExportSettings().max_series:,})" in page
    )
    rows = re.findall(r"^\| .* \| (\d+) \| ([\d,]+)", page, re.MULTILINE)
    assert rows
    assert all(int(taps) * SERIES_PER_TAP == int(series.replace(",", "")) for taps, series in rows)


def test_the_page_on_adopting_calls_attach_as_it_is() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "adopt.md").read_text(), re.DOTALL)
    calls = [
        node
        for block in blocks
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "sidecar.attach"
    ]
    assert len(calls) == 2
    for call in calls:
        inspect.signature(sidecar.attach).bind(
            *call.args, **{word.arg or "": word.value for word in call.keywords}
        )
