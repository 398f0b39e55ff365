"""`make bench`: runs the benchmarks named, or those that need no other server; writes build/bench/NAME.json."""

import json
import sys
from pathlib import Path

from tests.bench import capture, drift, drift_scenarios, kernel, overload, scrape, serving, store

BENCHMARKS = {
    "kernel": kernel.run,
    "capture": capture.run,
    "drift": drift.run,
    "drift_scenarios": drift_scenarios.run,
    "serving": serving.run,
    "overload": overload.run,
    "store": store.run,
    "scrape": scrape.run,
}
BY_NAME_ONLY = {"serving", "overload"}
FOLDER = Path("build/bench")


def main(names: list[str]) -> None:
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        sys.exit(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names or [name for name in BENCHMARKS if name not in BY_NAME_ONLY]:
        figures = BENCHMARKS[name]()
        (FOLDER / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
