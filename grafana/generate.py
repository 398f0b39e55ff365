"""Write grafana/dashboards from the panels in overview.py: `python grafana/generate.py`.

With `--check` nothing is written; the exit status is 1 where the file on disk differs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from overview import OVERVIEW

TARGET = Path(__file__).parent / "dashboards" / "sidecar-overview.json"


def main(arguments: list[str]) -> int:
    text = json.dumps(OVERVIEW, indent=2) + "\n"
    if arguments == ["--check"]:
        if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
            return 0
        print(f"{TARGET} is not what grafana/generate.py writes")
        return 1
    if arguments:
        print(__doc__)
        return 2
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
