"""Write grafana/dashboards from the panels in the files beside this one: `python grafana/generate.py`.

With `--check` nothing is written; the exit status is 1 where a file on disk differs or is nobody's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from drift import DRIFT
from health import HEALTH
from layers import LAYERS
from numerics import NUMERICS
from overview import OVERVIEW

FOLDER = Path(__file__).parent / "dashboards"
PAGES = {
    FOLDER / f"sidecar-{name}.json": json.dumps(page, indent=2) + "\n"
    for name, page in {
        "overview": OVERVIEW, "layers": LAYERS, "drift": DRIFT, "numerics": NUMERICS, "health": HEALTH,
    }.items()
}  # fmt: skip


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        there = {path: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
        wrong = sorted(path for path in there.keys() | PAGES.keys() if there.get(path) != PAGES.get(path))
        for path in wrong:
            print(f"{path} is not what grafana/generate.py writes")
        return int(bool(wrong))
    if arguments:
        print(__doc__)
        return 2
    for path, text in PAGES.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
