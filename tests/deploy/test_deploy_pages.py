"""Figures and code in the pages on adopting and sizing, against the code that they speak of."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import sidecar
from sidecar.export.detail import FULL, detail
from sidecar.settings import ExportSettings

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_the_page_on_sizing_knows_how_many_series_the_taps_make() -> None:
    page = (DOCS / "sizing.md").read_text()
    cap = ExportSettings().max_series
    assert f"A tap makes {FULL.series(further=False)} series; `export.max_series` ({cap:,})" in page
    rows = re.findall(r"^\| .* \| (\d+) \| ([\d,]+)", page, re.MULTILINE)
    assert rows
    for taps, series in rows:
        of_each = detail(int(taps), 0, cap).series(further=False)
        assert min(int(taps), cap // of_each) * of_each == int(series.replace(",", ""))


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
