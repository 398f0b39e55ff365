"""Write the Prometheus operator's object from deploy/prometheus/rules. `--check`: only say whether it would change."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parent
TARGET = FOLDER / "kubernetes/rules/prometheusrule.yaml"


def prometheus_rule(rules: Path) -> str:
    """The groups of all rule files of a folder as one object."""
    groups = [
        group for path in sorted(rules.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]
    ]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "activation-sidecar",
            "labels": {"app.kubernetes.io/name": "activation-sidecar"},
        },
        "spec": {"groups": groups},
    }
    text = yaml.safe_dump(rule, sort_keys=False, width=120)
    return f"# Written by deploy/generate.py from deploy/prometheus/rules; change it there.\n{text}"


def main(check: bool) -> int:
    text = prometheus_rule(FOLDER / "prometheus/rules")
    if not check:
        TARGET.write_text(text, encoding="utf-8")
    elif TARGET.read_text(encoding="utf-8") != text:
        print(f"{TARGET} is out of date; run deploy/generate.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
