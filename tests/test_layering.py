"""Imports run along the data's way, as the table in docs/architecture.md says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sidecar"
ROW = re.compile(r"^\| (\w+) \| ([\w, ]*)\|$")
GENERATED_IMPORTED_BY = {"server", "demo", "export"}


def allowed() -> dict[str, set[str]]:
    section = (ROOT / "docs/architecture.md").read_text().split("## The import rule")[1].split("\n## ")[0]
    rows = [found for line in section.splitlines() if (found := ROW.match(line))]
    return {row[1]: set(re.findall(r"\w+", row[2])) for row in rows if row[1] != "part"}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("sidecar."):
                yield name.split(".")[1]


SOURCES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if part_of(path) not in ("_pb", "__init__") and path != PACKAGE / "__init__.py"
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_what_its_part_may(path: Path) -> None:
    part = part_of(path)
    known = {
        name for name in imported(path) if (PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists()
    }
    permitted = allowed()[part] | {part} | ({"_pb"} if part in GENERATED_IMPORTED_BY else set())
    assert known - permitted == set()


def test_the_table_names_every_part_and_no_other() -> None:
    assert set(allowed()) == {part_of(path) for path in SOURCES}


def test_imports_go_round_in_no_circle() -> None:
    remaining = allowed()
    while remaining:
        leaves = {part for part, needs in remaining.items() if not needs & set(remaining)}
        assert leaves, f"a circle among {sorted(remaining)}"
        remaining = {part: needs for part, needs in remaining.items() if part not in leaves}
