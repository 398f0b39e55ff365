"""What a dashboard asks Prometheus, as Prometheus can be asked outside Grafana."""

from __future__ import annotations

import re
from typing import Any

_VARIABLE = re.compile(r"\$(\w+)")


def expand(expr: str) -> str:
    """`expr` with "All" chosen for every variable and one minute for `$__rate_interval`."""
    return _VARIABLE.sub(lambda found: "1m" if found[1] == "__rate_interval" else ".+", expr)


def annotation_expressions(dashboard: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, expanded expression) for each kind of mark on the dashboard's charts."""
    return [(one["name"], expand(one["expr"])) for one in dashboard["annotations"]["list"]]


def panel_expressions(dashboard: dict[str, Any]) -> list[tuple[str, str]]:
    """(panel title, expanded expression) for each query of the dashboard, rows' own entries left out."""
    return [
        (panel["title"], expand(target["expr"]))
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]
