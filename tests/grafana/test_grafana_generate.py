"""The generator, and what its expressions are outside Grafana."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grafana.expressions import annotation_expressions, expand, panel_expressions

GRAFANA = Path(__file__).parent.parent.parent / "grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
DASHBOARD = GRAFANA / "dashboards" / "sidecar-overview.json"


def generate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, folder / "generate.py", *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GRAFANA, tmp_path / "grafana"))


def test_the_dashboards_are_what_the_generator_writes() -> None:
    done = generate(GRAFANA, "--check")
    assert done.returncode == 0, done.stdout


def test_check_names_a_dashboard_that_was_edited_and_leaves_it(copy: Path) -> None:
    edited = copy / "dashboards" / DASHBOARD.name
    edited.write_text(DASHBOARD.read_text() + " ")
    done = generate(copy, "--check")
    assert done.returncode == 1
    assert str(edited) in done.stdout
    assert edited.read_text() != DASHBOARD.read_text()


def test_check_misses_a_dashboard_that_is_not_there(copy: Path) -> None:
    (copy / "dashboards" / DASHBOARD.name).unlink()
    assert generate(copy, "--check").returncode == 1


def test_check_names_a_dashboard_that_nothing_writes(copy: Path) -> None:
    stray = copy / "dashboards" / "stray.json"
    stray.write_text("{}")
    done = generate(copy, "--check")
    assert done.returncode == 1
    assert str(stray) in done.stdout


def test_without_check_the_dashboard_is_written(copy: Path) -> None:
    written = copy / "dashboards" / DASHBOARD.name
    written.unlink()
    assert generate(copy).returncode == 0
    assert written.read_text() == DASHBOARD.read_text()


def test_expanding_chooses_all_and_one_minute() -> None:
    expr = 'rate(x_total{job=~"$job", model=~"$model"}[$__rate_interval])'
    assert expand(expr) == 'rate(x_total{job=~".+", model=~".+"}[1m])'


def test_every_query_of_every_panel_is_listed_with_its_title() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    expected = [panel["title"] for panel in dashboard["panels"] for _ in panel.get("targets", [])]
    assert [title for title, _ in panel_expressions(dashboard)] == expected


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_expanded_expression_is_promql(
    path: Path, tmp_path: Path, program: Callable[[str], Path]
) -> None:
    dashboard = json.loads(path.read_text())
    expressions = [*panel_expressions(dashboard), *annotation_expressions(dashboard)]
    rules = [{"record": f"panel_{n}", "expr": expr} for n, (_, expr) in enumerate(expressions)]
    assert not [expr for _, expr in expressions if "$" in expr]
    page = tmp_path / "rules.yml"
    page.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        [program("promtool"), "check", "rules", page],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
