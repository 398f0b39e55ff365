"""Rows and panels as values, and the classic dashboard JSON (schemaVersion 39, Grafana 10.4 on) made of them.

The rules of grafana/dashboard-linter hold by construction: data source, job and instance are variables, and
a panel without title, description, unit and query cannot be written down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from string import ascii_uppercase
from typing import Any, Literal

Json = dict[str, Any]
Kind = Literal["timeseries", "stat", "heatmap"]

SCHEMA_VERSION = 39
COLUMNS = 24
HEIGHTS: dict[Kind, int] = {"timeseries": 8, "stat": 4, "heatmap": 9}
SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and the name of each series it returns, `{{label}}` filled in."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart. unit: a Grafana unit id. width: columns of 24.

    base: colour of the lowest values; steps: (from value, colour) above it.
    words: texts to show instead of the values 0 and 1.
    low, high: fixed ends of the axis or of the colour scale; scheme: the scale's colours (heatmaps).
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    width: int
    kind: Kind = "timeseries"
    base: str = "green"
    steps: tuple[tuple[float, str], ...] = ()
    words: tuple[str, str] | None = None
    low: float | None = None
    high: float | None = None
    scheme: str = "YlOrRd"


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of the dashboard: the values of `label` on `metric`, any number of them."""

    label: str
    metric: str


def dashboard(
    uid: str, title: str, description: str, variables: Sequence[Variable], rows: Sequence[Row]
) -> Json:
    """The dashboard as Grafana stores it; panels fill each row from the left and break at 24 columns."""
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["activation-sidecar"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_datasource(), *(_variable(variable) for variable in variables)]},
        "annotations": {"list": []},
        "links": [],
        "panels": _placed(rows),
    }


def _placed(rows: Sequence[Row]) -> list[Json]:
    ids = count(1)
    placed: list[Json] = []
    y = 0
    for row in rows:
        placed.append({
            "id": next(ids), "type": "row", "title": row.title, "collapsed": False, "panels": [],
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
        })  # fmt: skip
        x, y, height = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            grid = {"x": x, "y": y, "w": panel.width, "h": HEIGHTS[panel.kind]}
            placed.append({"id": next(ids), "gridPos": grid, **_panel(panel)})
            x, height = x + panel.width, max(height, HEIGHTS[panel.kind])
        y += height
    return placed


def _panel(panel: Panel) -> Json:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "targets": [
            {
                "refId": ref, "datasource": SOURCE, "expr": query.expr, "legendFormat": query.legend,
                "format": "time_series", "range": panel.kind != "stat", "instant": panel.kind == "stat",
            }
            for ref, query in zip(ascii_uppercase, panel.queries, strict=False)
        ],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _OPTIONS[panel.kind](panel),
    }  # fmt: skip


def _defaults(panel: Panel) -> Json:
    steps: list[Json] = [{"color": panel.base, "value": None}]
    steps += [{"color": colour, "value": value} for value, colour in panel.steps]
    defaults: Json = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.low is not None:
        defaults["min"] = panel.low
    if panel.high is not None:
        defaults["max"] = panel.high
    if panel.words is not None:
        texts = {str(value): {"index": value, "text": word} for value, word in enumerate(panel.words)}
        defaults["mappings"] = [{"type": "value", "options": texts}]
    if panel.kind == "timeseries":
        defaults["color"] = {"mode": "palette-classic"}
        defaults["custom"] = {
            "lineWidth": 1, "fillOpacity": 0, "showPoints": "never", "spanNulls": False,
            "thresholdsStyle": {"mode": "dashed" if panel.steps else "off"},
        }  # fmt: skip
    return defaults


def _timeseries(panel: Panel) -> Json:
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _stat(panel: Panel) -> Json:
    return {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "background", "graphMode": "none", "textMode": "auto", "justifyMode": "auto",
        "orientation": "auto",
    }  # fmt: skip


def _heatmap(panel: Panel) -> Json:
    """One row of cells for each series, in the order of their numeric names: `calculate` must be off."""
    scale = {"min": panel.low, "max": panel.high}
    return {
        "calculate": False,
        "cellGap": 1,
        "cellValues": {"unit": panel.unit},
        "color": {
            "mode": "scheme", "scheme": panel.scheme, "steps": 64, "reverse": False,
            **{end: value for end, value in scale.items() if value is not None},
        },
        # By default cells at or below 1e-9 are left out, and with them every negative mean.
        "filterValues": {"le": -1e300},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": False},
        "yAxis": {"axisLabel": "layer", "axisPlacement": "left", "reverse": False},
    }  # fmt: skip


_OPTIONS = {"timeseries": _timeseries, "stat": _stat, "heatmap": _heatmap}


def _datasource() -> Json:
    return {
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
        "current": {}, "hide": 0, "includeAll": False, "multi": False, "options": [], "refresh": 1,
        "regex": "",
    }  # fmt: skip


def _variable(variable: Variable) -> Json:
    within = "" if variable.label == "job" else '{job=~"$job"}'
    return {
        "name": variable.label, "label": variable.label.capitalize(), "type": "query", "datasource": SOURCE,
        "query": f"label_values({variable.metric}{within}, {variable.label})",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "allValue": ".+", "includeAll": True, "multi": True, "hide": 0, "options": [], "refresh": 2,
        "regex": "", "sort": 3,
    }  # fmt: skip
