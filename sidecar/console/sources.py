"""What the page is made of: its own scripts, as they lie in the package, and plotly.js."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"

_IMPORT = re.compile(r'^import [^;]*? from "([^"]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


def plotly() -> Path | None:
    """plotly.js as the plotly package ships it; None where that is not installed."""
    found = find_spec("plotly")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "package_data" / "plotly.min.js"
    return path if path.exists() else None


def scripts() -> str:
    """The page's modules as one, each behind those that it imports; their top-level names differ."""
    ordered: dict[Path, str] = {}

    def add(path: Path) -> None:
        if path in ordered:
            return
        text = path.read_text(encoding="utf-8")
        for wanted in _IMPORT.findall(text):
            add((path.parent / wanted).resolve())
        ordered[path] = _EXPORT.sub("", _IMPORT.sub("", text))

    add((STATIC / "app.js").resolve())
    return "\n".join(ordered.values())
