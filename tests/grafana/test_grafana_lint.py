"""The rules of grafana/dashboard-linter, and a few that file provisioning needs, on the dashboards as written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
Json = dict[str, Any]
DASHBOARDS: dict[str, Json] = {
    path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "grafana/dashboards").glob("*.json"))
}
PANELS = {
    f"{name}: {panel['title']}": panel
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    if panel["type"] != "row"
}
EXPRESSIONS = [
    *[target["expr"] for panel in PANELS.values() for target in panel["targets"]],
    *[one["expr"] for dashboard in DASHBOARDS.values() for one in dashboard["annotations"]["list"]],
]
SELECTOR = re.compile(r"\b((?:model:|tap:)?sidecar_[\w:]+)(\{[^}]*\})?")


@pytest.fixture(params=DASHBOARDS)
def dashboard(request: pytest.FixtureRequest) -> Json:
    return DASHBOARDS[request.param]


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


def variables(dashboard: Json) -> dict[str, Json]:
    return {entry["name"]: entry for entry in dashboard["templating"]["list"]}


def test_there_is_one_for_each_question() -> None:
    assert DASHBOARDS.keys() == {
        f"sidecar-{name}" for name in ("overview", "layers", "drift", "numerics", "health")
    }


def test_it_is_classic_json_of_schema_39(dashboard: Json) -> None:
    assert dashboard["schemaVersion"] == 39
    assert "spec" not in dashboard


@pytest.mark.parametrize("name", DASHBOARDS)
def test_its_uid_is_stable_and_short_enough_for_grafana(name: str) -> None:
    uid = DASHBOARDS[name]["uid"]
    assert uid == f"activation-{name}"
    assert len(uid) <= 40


def test_it_cannot_be_edited_in_place(dashboard: Json) -> None:
    assert dashboard["editable"] is False


def test_the_data_source_is_a_variable(dashboard: Json) -> None:
    variable = variables(dashboard)["datasource"]
    assert (variable["type"], variable["query"], variable["label"]) == (
        "datasource",
        "prometheus",
        "Data source",
    )


def test_variables_take_many_values_follow_the_time_range_and_all_means_any(dashboard: Json) -> None:
    chosen = {name: one for name, one in variables(dashboard).items() if name not in {"datasource", "page"}}
    assert chosen.keys() >= {"job", "instance", "model", "version", "site"}
    for variable in chosen.values():
        assert variable["type"] == "query"
        assert variable["multi"] is True
        assert variable["includeAll"] is True
        assert variable["allValue"] == ".+"
        assert variable["refresh"] == 2
        assert variable["datasource"]["uid"] == "${datasource}"


def test_every_variable_of_a_query_is_offered(dashboard: Json) -> None:
    asked = set(re.findall(r"\$(\w+)", json.dumps([panel.get("targets") for panel in dashboard["panels"]])))
    assert asked - {"__rate_interval"} <= variables(dashboard).keys()


def test_it_links_to_the_others_and_keeps_time_and_variables(dashboard: Json) -> None:
    (link,) = dashboard["links"]
    assert (link["type"], link["keepTime"], link["includeVars"]) == ("dashboards", True, True)
    assert set(link["tags"]) <= set(dashboard["tags"])


def test_it_marks_alerts_versions_and_baselines(dashboard: Json) -> None:
    assert [one["name"] for one in dashboard["annotations"]["list"]] == ["Alerts", "Versions", "Baselines"]


def test_lines_of_a_layer_lead_to_its_dashboard_and_to_the_sidecars_page(panel: Json) -> None:
    targets = panel["targets"]
    of_layers = all(
        "{{layer}}" in target["legendFormat"] and "by (model" in target["expr"] for target in targets
    )
    urls = [link["url"] for link in panel["fieldConfig"]["defaults"].get("links", [])]
    if of_layers and panel["type"] == "timeseries" and "silent" not in targets[0]["expr"]:
        to_layers, to_page = urls
        assert to_layers.startswith("/d/activation-sidecar-layers?${__url_time_range}&${__all_variables}")
        assert to_page.startswith("${page}/#/layer?model=${__field.labels.model}&version=")


def test_a_channel_leads_to_its_place_on_the_sidecars_page() -> None:
    (table,) = [panel for panel in PANELS.values() if panel["type"] == "table"]
    (link,) = table["fieldConfig"]["defaults"]["links"]
    assert link["url"].startswith("${page}/#/neuron?")
    assert link["url"].endswith("&channel=${__data.fields.channel}")


def test_a_panel_uses_the_data_source_variable(panel: Json) -> None:
    assert {entry["datasource"]["uid"] for entry in [panel, *panel["targets"]]} == {"${datasource}"}


def test_a_panel_has_a_title_and_a_description_that_says_what_good_looks_like(panel: Json) -> None:
    assert panel["title"]
    assert " Good: " in panel["description"]


def test_a_panel_has_a_unit(panel: Json) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]


def test_a_panel_has_queries_with_unlike_ref_ids(panel: Json) -> None:
    refs = [target["refId"] for target in panel["targets"]]
    assert refs
    assert len(set(refs)) == len(refs)


def test_a_panels_lines_have_names(panel: Json) -> None:
    assert all(target["legendFormat"] for target in panel["targets"])


def test_panel_titles_are_unlike(dashboard: Json) -> None:
    titled = [panel["title"] for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len(set(titled)) == len(titled)


def test_panel_ids_are_unlike(dashboard: Json) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_a_panel_lies_within_24_columns(panel: Json) -> None:
    grid = panel["gridPos"]
    assert 0 <= grid["x"] < grid["x"] + grid["w"] <= 24


def test_no_two_panels_overlap(dashboard: Json) -> None:
    grids = [panel["gridPos"] for panel in dashboard["panels"]]
    assert not [(a, b) for n, a in enumerate(grids) for b in grids[n + 1 :] if overlap(a, b)]


@pytest.mark.parametrize("label", ["job", "instance"])
def test_a_query_is_filtered_by_job_and_instance(expr: str, label: str) -> None:
    for _, matchers in SELECTOR.findall(expr):
        assert f'{label}=~"${label}"' in matchers


def test_a_query_about_a_model_is_filtered_by_model_and_version(expr: str) -> None:
    process_wide = {
        "sidecar_series", "sidecar_series_dropped", "sidecar_files_stale", "sidecar_gpu_memory_bytes",
    }  # fmt: skip
    for name, matchers in SELECTOR.findall(expr):
        assert name in process_wide or 'model=~"$model", version=~"$version"' in matchers


def test_what_has_a_sign_or_is_of_one_channel_is_not_mixed_over_instances(expr: str) -> None:
    for name, _ in SELECTOR.findall(expr):
        if name.endswith("shift_sigmas") or "worst_channel" in name:
            assert expr.startswith("max by (model, version, layer, site, instance) (")


def test_a_rate_looks_back_over_the_rate_interval(expr: str) -> None:
    assert set(re.findall(r"(?:rate|increase)\([^)]*\[([^\]]*)\]", expr)) <= {"$__rate_interval"}


def test_a_counter_is_only_asked_for_its_rate(expr: str) -> None:
    bare = re.sub(r"(?:rate|increase)\([^)]*\)", "", expr)
    assert not re.search(r"sidecar_\w+_total", bare)


def test_a_heatmap_of_layers_has_one_numerically_named_series_a_layer(panel: Json) -> None:
    if panel["type"] == "heatmap" and panel["targets"][0]["legendFormat"] != "{{le}}":
        assert panel["options"]["calculate"] is False
        (target,) = panel["targets"]
        assert (target["format"], target["legendFormat"]) == ("time_series", "{{layer}}")
        assert " by (layer) " in target["expr"]


def test_the_heatmap_of_values_is_of_cumulative_buckets() -> None:
    (panel,) = [one for one in PANELS.values() if one["targets"][0]["legendFormat"] == "{{le}}"]
    (target,) = panel["targets"]
    assert (panel["type"], panel["options"]["calculate"], target["format"]) == ("heatmap", False, "heatmap")
    assert target["expr"].startswith("sum by (le) (rate(sidecar_activation_value_bucket{")


def test_a_table_asks_for_now_and_joins_its_queries() -> None:
    (table,) = [panel for panel in PANELS.values() if panel["type"] == "table"]
    assert {(one["format"], one["instant"], one["range"]) for one in table["targets"]} == {
        ("table", True, False)
    }
    assert [step["id"] for step in table["transformations"]] == ["merge", "organize"]
