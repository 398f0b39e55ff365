"""The Helm chart, linted and rendered by Helm's own library."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.objects import (
    Objects,
    admits,
    environment,
    hardened,
    one,
    one_source_each,
    pods,
    selects,
    validate,
)

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "deploy/helm/activation-sidecar"
helm = pytest.importorskip("helm_python", reason="Helm's library has no wheel for this platform")

COLLECTOR = {
    "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
    "ports": [{"port": 4317}],
}
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
        "imagePullSecrets": [{"name": "registry"}],
        "extraVolumes": [{"name": "baseline", "configMap": {"name": "digits-baseline"}}],
        "extraVolumeMounts": [{"name": "baseline", "mountPath": "/etc/sidecar-baseline", "readOnly": True}],
    },
    "persistence": {"persistence": {"enabled": True, "storageClass": "fast"}},
    "pods that talk": {"networkPolicy": {"replicas": True, "egress": [COLLECTOR]}},
}


def rendered(values: dict[str, Any], release: str = "trial") -> Objects:
    with helm.Chart.load(CHART) as chart:
        pages = chart.render(values, name=release, namespace="ml")
    return [
        found
        for path, page in pages.items()
        if path.endswith(".yaml")
        for found in yaml.safe_load_all(page)
        if found
    ]


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
    assert all(hardened(pod) and one_source_each(pod) for pod in pods(rendered(values)))


def test_the_rules_are_those_of_prometheus() -> None:
    (rule,) = [found for found in rendered({}) if found["kind"] == "PrometheusRule"]
    files = sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
    groups = [group for path in files for group in yaml.safe_load(path.read_text())["groups"]]
    assert rule["spec"]["groups"] == groups


def test_the_chart_makes_the_pods_that_kustomize_makes() -> None:
    (pod,) = pods(rendered({}))
    base = yaml.safe_load((ROOT / "deploy/kubernetes/base/deployment.yaml").read_text())
    assert comparable(pod) == comparable(base["spec"]["template"]["spec"])


def test_with_persistence_the_chart_makes_the_set_that_kustomize_makes(
    extend: Callable[..., Objects],
) -> None:
    chart = one(rendered({"persistence": {"enabled": True}}), "StatefulSet")["spec"]
    ours = one(extend("in-path", "persistence"), "StatefulSet")["spec"]
    assert comparable(chart.pop("template")["spec"]) == comparable(ours.pop("template")["spec"])
    for spec in (chart, ours):
        del spec["selector"], spec["serviceName"]
    assert chart == ours


def comparable(pod: dict[str, Any]) -> dict[str, Any]:
    """Without the names and labels that differ between a release and an overlay, and in one order."""
    del pod["serviceAccountName"], pod["topologySpreadConstraints"][0]["labelSelector"]
    (container,) = pod["containers"]
    del container["image"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        container[probe]["httpGet"].pop("scheme", None)
    for volume in pod["volumes"]:
        volume.get("configMap", {}).pop("name", None)
    pod["volumes"].sort(key=itemgetter("name"))
    container["volumeMounts"].sort(key=itemgetter("name"))
    return pod


def test_the_objects_of_the_operator_carry_the_labels_it_looks_for() -> None:
    objects = rendered({"monitoring": {"labels": {"release": "prometheus"}}})
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert one(objects, kind)["metadata"]["labels"]["release"] == "prometheus"


def test_with_persistence_reference_evidence_and_panes_lie_on_the_volume() -> None:
    assert environment(rendered(VALUES["persistence"])) == {
        "SIDECAR_DRIFT__STATE": "/data/drift",
        "SIDECAR_STORE__PATH": "/data/activations.db",
    }


def test_volumes_and_pull_secrets_of_ones_own_reach_the_pod() -> None:
    (pod,) = pods(rendered(values := VALUES["own model"]))
    assert pod["imagePullSecrets"] == values["imagePullSecrets"]
    assert values["extraVolumes"][0] in pod["volumes"]
    assert {"name": "models", **values["models"]} in pod["volumes"]
    assert values["extraVolumeMounts"][0] in pod["containers"][0]["volumeMounts"]


def test_labels_of_clients_that_are_named_replace_those_of_the_chart() -> None:
    policy = one(rendered({"networkPolicy": {"clients": {"team": "search"}}}), "NetworkPolicy")
    assert admits(policy, "grpc", {"team": "search"})
    assert not admits(policy, "grpc", {"activation-sidecar/client": "true"})


def test_only_pods_with_the_label_for_clients_are_let_in_unless_others_are_named() -> None:
    policy = one(rendered({}), "NetworkPolicy")
    assert admits(policy, "grpc", {"activation-sidecar/client": "true"})
    assert not admits(policy, "grpc", {})


def test_pods_call_nobody_unless_somebody_is_named() -> None:
    assert one(rendered({}), "NetworkPolicy")["spec"]["egress"] == []


def test_pods_that_may_talk_reach_each_other_names_and_the_collector() -> None:
    objects = rendered(VALUES["pods that talk"])
    labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    policy = one(objects, "NetworkPolicy")
    names, there, collector = policy["spec"]["egress"]
    assert admits(policy, "metrics", labels)
    assert not admits(policy, "metrics", {})
    assert selects(there["to"][0]["podSelector"], labels)
    assert there["ports"] == [{"port": 8002}]
    assert {port["port"] for port in names["ports"]} == {53}
    assert collector == COLLECTOR


def test_prometheus_is_handed_another_key_than_the_list_of_tokens() -> None:
    objects = rendered(VALUES["tls"])
    (endpoint,) = one(objects, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"] == {"name": "certificate", "key": "scrape-token"}
    assert environment(objects)["SIDECAR_SERVER__TOKEN_FILE"] == "/etc/sidecar-tls/token"


@pytest.mark.parametrize("release", ["a" * 53, "activation-sidecar-" + "a" * 34, "a" * 32 + "-" + "a" * 20])
def test_a_long_release_name_leaves_room_for_what_is_added_to_names(release: str) -> None:
    for found in rendered(VALUES["persistence"], release):
        assert len(found["metadata"]["name"]) <= 52
        assert found["metadata"]["name"][-1].isalnum()
        validate(found)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 2}, "replica"),
        ({"env": {"CAPTURE": "1"}}, "CAPTURE"),
        ({"monitoring": {"interval": "60s"}}, "interval"),
        ({"persistence": {"size": "much"}}, "size"),
    ],
)
def test_a_wrong_value_is_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(helm.HelmError, match=named):
        rendered(values)
