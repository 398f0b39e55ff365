"""The rules of grafana/dashboard-linter, and a few that file provisioning needs, on the dashboard as written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
DASHBOARD: dict[str, Any] = json.loads((ROOT / "grafana/dashboards/sidecar-overview.json").read_text())
VARIABLES: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in DASHBOARD["templating"]["list"]}
ROWS = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
EXPRESSIONS = [target["expr"] for panel in PANELS.values() for target in panel["targets"]]
SELECTOR = re.compile(r"\b((?:model:|tap:)?sidecar_[\w:]+)(\{[^}]*\})?")


@pytest.fixture(params=PANELS, ids=str)
def panel(request: pytest.FixtureRequest) -> dict[str, Any]:
    return PANELS[request.param]


@pytest.fixture(params=EXPRESSIONS, ids=str)
def expr(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def test_it_is_classic_json_of_schema_39() -> None:
    assert DASHBOARD["schemaVersion"] == 39
    assert "spec" not in DASHBOARD


def test_its_uid_is_stable_and_short_enough_for_grafana() -> None:
    assert DASHBOARD["uid"] == "activation-sidecar-overview"
    assert len(DASHBOARD["uid"]) <= 40


def test_it_cannot_be_edited_in_place() -> None:
    assert DASHBOARD["editable"] is False


def test_the_data_source_is_a_variable() -> None:
    variable = VARIABLES["datasource"]
    assert (variable["type"], variable["query"], variable["label"]) == (
        "datasource",
        "prometheus",
        "Data source",
    )


@pytest.mark.parametrize("name", ["job", "instance", "model", "version", "site"])
def test_a_variable_takes_many_values_and_all_means_any(name: str) -> None:
    variable = VARIABLES[name]
    assert variable["type"] == "query"
    assert variable["multi"] is True
    assert variable["includeAll"] is True
    assert variable["allValue"] == ".+"
    assert variable["datasource"]["uid"] == "${datasource}"


@pytest.mark.parametrize("name", ["job", "instance", "model", "version", "site"])
def test_a_variable_follows_the_time_range(name: str) -> None:
    assert VARIABLES[name]["refresh"] == 2


def test_a_panel_uses_the_data_source_variable(panel: dict[str, Any]) -> None:
    assert {entry["datasource"]["uid"] for entry in [panel, *panel["targets"]]} == {"${datasource}"}


def test_a_panel_has_a_title_and_a_description_that_says_what_good_looks_like(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert " Good: " in panel["description"]


def test_a_panel_has_a_unit(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]


def test_a_panel_has_queries_with_unlike_ref_ids(panel: dict[str, Any]) -> None:
    refs = [target["refId"] for target in panel["targets"]]
    assert refs
    assert len(set(refs)) == len(refs)


def test_a_panels_lines_have_names(panel: dict[str, Any]) -> None:
    assert all(target["legendFormat"] for target in panel["targets"])


def test_panel_titles_are_unlike() -> None:
    titled = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert len(set(titled)) == len(titled)


def test_panel_ids_are_unlike() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_a_panel_lies_within_24_columns(panel: dict[str, Any]) -> None:
    grid = panel["gridPos"]
    assert 0 <= grid["x"] < grid["x"] + grid["w"] <= 24


def test_no_two_panels_overlap() -> None:
    grids = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert not [(a, b) for n, a in enumerate(grids) for b in grids[n + 1 :] if overlap(a, b)]


@pytest.mark.parametrize("label", ["job", "instance"])
def test_a_query_is_filtered_by_job_and_instance(expr: str, label: str) -> None:
    for _, matchers in SELECTOR.findall(expr):
        assert f'{label}=~"${label}"' in matchers


def test_a_query_about_a_model_is_filtered_by_model_and_version(expr: str) -> None:
    for name, matchers in SELECTOR.findall(expr):
        process_wide = name in {"sidecar_series", "sidecar_series_dropped"}
        assert process_wide or 'model=~"$model", version=~"$version"' in matchers


def test_a_rate_looks_back_over_the_rate_interval(expr: str) -> None:
    assert set(re.findall(r"\[([^\]]*)\]", expr)) <= {"$__rate_interval"}


def test_a_counter_is_only_asked_for_its_rate(expr: str) -> None:
    bare = re.sub(r"(?:rate|increase)\([^)]*\)", "", expr)
    assert not re.search(r"sidecar_\w+_total", bare)


def test_heatmaps_of_layers_have_one_numerically_named_series_a_layer() -> None:
    heatmaps = [panel for panel in PANELS.values() if panel["type"] == "heatmap"]
    assert len(heatmaps) == 2
    for panel in heatmaps:
        assert panel["options"]["calculate"] is False
        (target,) = panel["targets"]
        assert (target["format"], target["legendFormat"]) == ("time_series", "{{layer}}")
        assert " by (layer) " in target["expr"]


def test_the_rows_are_the_questions_one_asks() -> None:
    assert [row["title"] for row in ROWS] == [
        "Traffic",
        "State now",
        "Drift",
        "Activations",
        "Sidecar health",
    ]
