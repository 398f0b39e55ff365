"""Rules, dashboard, runbooks and docs speak of the metrics and alerts that exist, by their names and labels."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana.expressions import annotation_expressions, panel_expressions
from sidecar.export.catalogue import CATALOGUE, Metric

ROOT = Path(__file__).parent.parent.parent
RUNBOOKS = ROOT / "deploy/runbooks"
RULES: list[dict[str, Any]] = [
    rule
    for path in sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
PANELS = [
    (f"{path.stem} {title}", expr)
    for path in sorted((ROOT / "grafana/dashboards").glob("*.json"))
    for dashboard in [json.loads(path.read_text())]
    for title, expr in [*panel_expressions(dashboard), *annotation_expressions(dashboard)]
]
EXPRESSIONS = {rule.get("alert") or rule["record"]: rule["expr"] for rule in RULES} | {
    f"panel {title} #{number}": expr for number, (title, expr) in enumerate(PANELS)
}

SCRAPE_LABELS = {"job", "instance"}
SERIES: dict[str, Metric] = {
    metric.name + suffix: metric
    for metric in CATALOGUE
    for suffix in (
        ("_bucket", "_sum", "_count", *([""] if metric.native else []))
        if metric.kind == "histogram"
        else ("",)
    )
}
NAME = re.compile(r"(?<![\w:\"])((?:model:|tap:)?sidecar_[\w:]+)(?:\{([^}]*)\})?")
MATCHED_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPED = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
TEMPLATE_LABEL = re.compile(r"\$labels\.(\w+)")


def labels_of(series: str) -> set[str]:
    """Labels the series may have: the catalogue's, for a recorded one those of what it is made of."""
    if series in RECORDED:
        beyond = {"layer", "site"} if series.startswith("model:") else set()
        return set().union(*(labels_of(name) for name, _ in NAME.findall(RECORDED[series]))) - beyond
    extra = {"le"} if series.endswith("_bucket") else set()
    return {*SERIES[series].labels, *SCRAPE_LABELS, *extra}


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_every_series_in_an_expression_is_in_the_catalogue_or_recorded(where: str) -> None:
    names = {name for name, _ in NAME.findall(EXPRESSIONS[where])}
    assert names - SERIES.keys() - RECORDED.keys() == set()


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_every_matched_label_belongs_to_its_series(where: str) -> None:
    for name, matchers in NAME.findall(EXPRESSIONS[where]):
        assert set(MATCHED_LABEL.findall(matchers)) <= labels_of(name), name


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_every_grouping_label_belongs_to_a_series_of_the_expression(where: str) -> None:
    expr = EXPRESSIONS[where]
    known = set().union(*(labels_of(name) for name, _ in NAME.findall(expr))) or SCRAPE_LABELS
    for labels in GROUPED.findall(expr):
        assert {label.strip() for label in labels.split(",")} - {""} <= known


def test_every_recorded_series_is_used() -> None:
    used = {name for expr in EXPRESSIONS.values() for name, _ in NAME.findall(expr)}
    assert RECORDED.keys() - used == set()


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_severity_summary_description_and_runbook(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alerts_texts_use_only_labels_it_has(alert: str) -> None:
    rule = ALERTS[alert]
    known = set().union(*(labels_of(name) for name, _ in NAME.findall(rule["expr"]))) or SCRAPE_LABELS
    assert set(TEMPLATE_LABEL.findall(" ".join(rule["annotations"].values()))) <= known


@pytest.mark.parametrize("alert", [name for name in ALERTS if name != "SidecarDown"])
def test_an_alerts_summary_names_the_model_and_where_it_has_them_layer_and_site(alert: str) -> None:
    rule = ALERTS[alert]
    known = labels_of(NAME.findall(rule["expr"])[0][0])
    named = set(TEMPLATE_LABEL.findall(rule["annotations"]["summary"]))
    assert named >= {"model", "version", "layer", "site"} & known


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alerts_runbook_exists(alert: str) -> None:
    assert ALERTS[alert]["annotations"]["runbook_url"] == f"deploy/runbooks/{alert}.md"
    assert (RUNBOOKS / f"{alert}.md").is_file()


def test_every_runbook_belongs_to_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.iterdir()} == ALERTS.keys()


@pytest.mark.parametrize("runbook", sorted(RUNBOOKS.iterdir()), ids=lambda path: path.stem)
def test_a_runbook_speaks_only_of_metrics_that_exist(runbook: Path) -> None:
    assert {name for name, _ in NAME.findall(runbook.read_text())} <= SERIES.keys()


def test_the_page_of_alerts_lists_each_with_its_severity() -> None:
    page = (ROOT / "docs/alerts.md").read_text()
    listed = dict(re.findall(r"^\| \[(\w+)\]\([^)]*\) \| (\w+) \|", page, re.MULTILINE))
    assert listed == {alert: rule["labels"]["severity"] for alert, rule in ALERTS.items()}


def test_the_generated_pages_are_what_the_code_says() -> None:
    check = subprocess.run([sys.executable, ROOT / "docs/generate.py", "--check"], check=False)
    assert check.returncode == 0
