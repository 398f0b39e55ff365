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
Kind = Literal["timeseries", "stat", "heatmap", "buckets", "table"]

SCHEMA_VERSION = 39
COLUMNS = 24
HEIGHTS: dict[Kind, int] = {"timeseries": 8, "stat": 4, "heatmap": 9, "buckets": 9, "table": 9}
TAG = "activation-sidecar"
SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and the name of each series it returns, `{{label}}` filled in."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Link:
    """Where a click on a value leads; `url` may hold Grafana's variables for the value and its labels."""

    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart. unit: a Grafana unit id. width: columns of 24.

    kind: `heatmap` has one row of cells for each series, `buckets` one for each bucket of a histogram, `table`
        one row for each set of labels and a column for each query, named by its legend.
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
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of the dashboard: the values of `label` on `metric`, any number of them."""

    label: str
    metric: str


@dataclass(frozen=True, slots=True)
class Annotation:
    """A mark on all charts while `expr` has a series."""

    name: str
    colour: str
    expr: str
    title: str
    text: str


def dashboard(
    uid: str,
    title: str,
    description: str,
    variables: Sequence[Variable],
    annotations: Sequence[Annotation],
    rows: Sequence[Row],
) -> Json:
    """The dashboard as Grafana stores it; panels fill each row from the left and break at 24 columns."""
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_datasource(), *map(_variable, variables), _page()]},
        "annotations": {"list": [_annotation(one) for one in annotations]},
        "links": [_to_the_others()],
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
        "type": "heatmap" if panel.kind == "buckets" else panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "targets": [
            {
                "refId": ref, "datasource": SOURCE, "expr": query.expr, "legendFormat": query.legend,
                "format": _FORMATS.get(panel.kind, "time_series"),
                "range": panel.kind not in _OF_NOW, "instant": panel.kind in _OF_NOW,
            }
            for ref, query in zip(ascii_uppercase, panel.queries, strict=False)
        ],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _OPTIONS[panel.kind](panel),
        "transformations": _columns(panel) if panel.kind == "table" else [],
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
    if panel.links:
        defaults["links"] = [
            {"title": link.title, "url": link.url, "targetBlank": False} for link in panel.links
        ]
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


def _table(panel: Panel) -> Json:
    return {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}}


def _columns(panel: Panel) -> list[Json]:
    """One table of all queries, joined where their labels are equal; a query's column bears its legend."""
    values = {
        f"Value #{ref}": query.legend for ref, query in zip(ascii_uppercase, panel.queries, strict=False)
    }
    renamed = values if len(values) > 1 else {"Value": panel.queries[0].legend}
    return [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": renamed}},
    ]


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
        "yAxis": {
            "axisLabel": "layer" if panel.kind == "heatmap" else "value", "axisPlacement": "left", "reverse": False,
        },
    }  # fmt: skip


_OPTIONS = {
    "timeseries": _timeseries,
    "stat": _stat,
    "heatmap": _heatmap,
    "buckets": _heatmap,
    "table": _table,
}
_FORMATS: dict[Kind, str] = {"buckets": "heatmap", "table": "table"}
_OF_NOW: tuple[Kind, ...] = ("stat", "table")


def _annotation(annotation: Annotation) -> Json:
    return {
        "name": annotation.name, "enable": True, "hide": False, "iconColor": annotation.colour,
        "datasource": SOURCE, "expr": annotation.expr, "step": "15s",
        "titleFormat": annotation.title, "textFormat": annotation.text,
    }  # fmt: skip


def _to_the_others() -> Json:
    """A list of all dashboards of the sidecar, which open at the same time and with the same choices."""
    return {
        "type": "dashboards", "tags": [TAG], "title": "Activation sidecar", "asDropdown": False,
        "icon": "external link", "includeVars": True, "keepTime": True, "targetBlank": False, "tooltip": "", "url": "",
    }  # fmt: skip


def _page() -> Json:
    """Where the sidecar's own page is, for the links: Prometheus may know it by another name than a browser."""
    address = "http://127.0.0.1:8002"
    return {
        "name": "page", "label": "Sidecar's page", "type": "textbox", "query": address, "hide": 0,
        "current": {"selected": False, "text": address, "value": address},
        "options": [{"selected": True, "text": address, "value": address}],
    }  # fmt: skip


def _datasource() -> Json:
    return {
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
        "current": {}, "hide": 0, "includeAll": False, "multi": False, "options": [], "refresh": 1,
        "regex": "",
    }  # fmt: skip


def _variable(variable: Variable) -> Json:
    within = {"job": "", "layer": '{job=~"$job", model=~"$model"}'}.get(variable.label, '{job=~"$job"}')
    return {
        "name": variable.label, "label": variable.label.capitalize(), "type": "query", "datasource": SOURCE,
        "query": f"label_values({variable.metric}{within}, {variable.label})",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "allValue": ".+", "includeAll": True, "multi": True, "hide": 0, "options": [], "refresh": 2,
        "regex": "", "sort": 3,
    }  # fmt: skip
