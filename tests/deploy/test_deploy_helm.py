"""The Helm chart, linted and rendered by Helm's own library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.objects import hardened, pods, validate

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "deploy/helm/activation-sidecar"
helm = pytest.importorskip("helm_python", reason="Helm's library has no wheel for this platform")

VALUES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "gpu": {
        "gpus": 1,
        "image": {"tag": "cuda"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    },
    "tls": {"tlsSecret": "certificate"},
    "shadow": {"shadow": {"enabled": True}, "env": {"SIDECAR_CAPTURE__BUDGET": "0.2"}},
    "bare": {"monitoring": {"enabled": False}, "networkPolicy": {"enabled": False}},
    "own model": {
        "models": {"persistentVolumeClaim": {"claimName": "models"}},
        "nodeSelector": {"pool": "cpu"},
    },
}


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    with helm.Chart.load(CHART) as chart:
        pages = chart.render(values, name="trial", namespace="ml")
    return [
        found
        for path, page in pages.items()
        if path.endswith(".yaml")
        for found in yaml.safe_load_all(page)
        if found
    ]


def test_alerts_link_to_the_runbooks_where_they_were_put() -> None:
    for values, folder in (
        ({}, "deploy/runbooks"),
        ({"monitoring": {"runbooks": "https://a.b/c"}}, "https://a.b/c"),
    ):
        (rules,) = (found for found in rendered(values) if found["kind"] == "PrometheusRule")
        alerts = [rule for group in rules["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
        assert len(alerts) > 20
        for rule in alerts:
            assert rule["annotations"]["runbook_url"] == f"{folder}/{rule['alert']}.md"


def test_helm_has_nothing_to_say_of_the_chart_but_that_it_has_no_icon() -> None:
    report = helm.lint(CHART, strict=True)
    assert report["errors"] == []
    assert [message["error"] for message in report["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_every_object_is_valid(values: dict[str, Any]) -> None:
    for found in rendered(values):
        validate(found)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_every_pod_meets_the_restricted_profile_with_a_read_only_root(values: dict[str, Any]) -> None:
    assert all(hardened(pod) for pod in pods(rendered(values)))


def test_the_rules_are_those_of_prometheus() -> None:
    (rule,) = [found for found in rendered({}) if found["kind"] == "PrometheusRule"]
    files = sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
    groups = [group for path in files for group in yaml.safe_load(path.read_text())["groups"]]
    assert rule["spec"]["groups"] == groups


def test_the_chart_makes_the_pods_that_kustomize_makes() -> None:
    (pod,) = pods(rendered({}))
    base = yaml.safe_load((ROOT / "deploy/kubernetes/base/deployment.yaml").read_text())
    ours = base["spec"]["template"]["spec"]
    for one in (pod, ours):
        one.pop("serviceAccountName")
        one["volumes"][0].pop("configMap")
        one["containers"][0].pop("image")
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            one["containers"][0][probe]["httpGet"].pop("scheme", None)
    assert pod == ours


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 2}, "replica"),
        ({"env": {"CAPTURE": "1"}}, "CAPTURE"),
        ({"monitoring": {"interval": "60s"}}, "interval"),
    ],
)
def test_a_wrong_value_is_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(helm.HelmError, match=named):
        rendered(values)
