"""Write docs/metrics.md from the catalogue: `python docs/generate_metrics.py`.

With `--check` nothing is written; the exit status is 1 where the file on disk differs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from sidecar.export.catalogue import CATALOGUE, MODEL, TAP, Metric

TARGET = Path(__file__).with_name("metrics.md")

INTRODUCTION = """\
# Metrics

Written by `docs/generate_metrics.py` from `sidecar/export/catalogue.py`; change it there.

`/metrics` on the HTTP port (8002) has all of them, in Prometheus' text format or OpenMetrics. Counters
start at 0 with every label set that is known in advance, so that the first event is already an increase.
A gauge that cannot be known yet, such as a distance before the reference is ready, is NaN.

| label | meaning |
|---|---|
| `model`, `version` | as configured; `-` stands for requests to a model that is not served |
| `layer` | depth of the tap in the model, an integer from 0 |
| `site` | where in the layer: `resid`, `attn_out`, `mlp_out`, `logits`, `stage`, or the module's name |
| `code` | gRPC status name, for example `OK` or `INVALID_ARGUMENT` |
| `kind` | `nan`, `+inf` or `-inf` |
| `rank` | 1 for the channel that moved most |
| `reason`, `part` | see the metric |

`layer` and `site` together name a tap. [The alerts](alerts.md) are made from these metrics.
"""

HEAD = "| name | kind | unit | labels | meaning |\n|---|---|---|---|---|\n"


def rows(metrics: Sequence[Metric]) -> str:
    return "".join(
        f"| `{metric.name}` | {metric.kind} | {metric.unit} | "
        f"{', '.join(f'`{label}`' for label in metric.labels)} | {metric.help.replace('|', chr(92) + '|')} |\n"
        for metric in metrics
    )


def document(catalogue: Sequence[Metric]) -> str:
    """The page: one table for each thing that a metric can be about."""
    taps = [metric for metric in catalogue if metric.labels[: len(TAP)] == TAP]
    models = [metric for metric in catalogue if metric not in taps and metric.labels[: len(MODEL)] == MODEL]
    others = [metric for metric in catalogue if metric not in taps and metric not in models]
    sections = (("Of each model", models), ("Of each tap", taps), ("Of the process", others))
    return INTRODUCTION + "".join(f"\n## {title}\n\n{HEAD}{rows(found)}" for title, found in sections)


def main(arguments: list[str]) -> int:
    text = document(CATALOGUE)
    if arguments == ["--check"]:
        if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
            return 0
        print(f"{TARGET} is not what docs/generate_metrics.py writes")
        return 1
    if arguments:
        print(__doc__)
        return 2
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
