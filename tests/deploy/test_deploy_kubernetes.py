"""The Kubernetes objects: each file, and what kustomize makes of each overlay."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from sidecar import settings
from tests.deploy.objects import SPECS, Objects, admits, environment, hardened, one, pods, validate

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
FILES = [
    path
    for folder in ("kubernetes", "kserve")
    for path in sorted((DEPLOY / folder).rglob("*.yaml"))
    if path.name != "kustomization.yaml"
]
OVERLAYS = [DEPLOY / "kserve", *sorted((DEPLOY / "kubernetes/overlays").iterdir())]
SERVING = ["in-path", "shadow", "gpu", "tls"]

Build = Callable[[Path], Objects]


def named(path: Path) -> str:
    return str(path.relative_to(DEPLOY))


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_file_holds_one_valid_object(path: Path) -> None:
    validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("kind", [kind for _, kind in SPECS])
def test_a_custom_resource_with_a_misspelt_field_is_refused(kind: str) -> None:
    (found,) = [found for path in FILES if (found := yaml.safe_load(path.read_text()))["kind"] == kind]
    found["spec"]["mispelt"] = 1
    with pytest.raises(jsonschema.ValidationError, match="mispelt"):
        validate(found)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=named)
def test_every_object_of_an_overlay_is_valid(overlay: Path, build: Build) -> None:
    for found in build(overlay):
        validate(found)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=named)
def test_every_pod_meets_the_restricted_profile_with_a_read_only_root(overlay: Path, build: Build) -> None:
    assert all(hardened(pod) for pod in pods(build(overlay)))


@pytest.mark.parametrize("overlay", SERVING)
def test_everything_selects_the_pods_of_the_deployment(overlay: str, build: Build) -> None:
    objects = build(DEPLOY / "kubernetes/overlays" / overlay)
    deployment = one(objects, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    selectors = [
        deployment["selector"]["matchLabels"],
        one(objects, "Service")["spec"]["selector"],
        one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector and selector.items() <= labels.items() for selector in selectors)
    monitored = one(objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= one(objects, "Service")["metadata"]["labels"].items()


@pytest.mark.parametrize("overlay", SERVING)
def test_the_pods_mount_the_configuration_that_is_generated(overlay: str, build: Build) -> None:
    objects = build(DEPLOY / "kubernetes/overlays" / overlay)
    volumes = one(objects, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert one(objects, "ConfigMap")["metadata"]["name"] in {
        volume["configMap"]["name"] for volume in volumes if "configMap" in volume
    }


@pytest.mark.parametrize("overlay", ["in-path", "gpu", "tls"])
def test_a_client_needs_no_other_label_than_the_one_for_clients(overlay: str, build: Build) -> None:
    policy = one(build(DEPLOY / "kubernetes/overlays" / overlay), "NetworkPolicy")
    assert admits(policy, "grpc", {"activation-sidecar/client": "true"})


@pytest.mark.parametrize("overlay", SERVING)
def test_a_pod_without_the_label_for_clients_is_not_let_in(overlay: str, build: Build) -> None:
    objects = build(DEPLOY / "kubernetes/overlays" / overlay)
    own = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    policy = one(objects, "NetworkPolicy")
    assert not any(admits(policy, port, labels) for port in ("grpc", "metrics") for labels in ({}, own))


@pytest.mark.parametrize("overlay", SERVING)
def test_variables_of_services_cannot_be_taken_for_settings(overlay: str, build: Build) -> None:
    (pod,) = pods(build(DEPLOY / "kubernetes/overlays" / overlay))
    assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize("overlay", SERVING)
def test_pods_spread_over_nodes_where_they_can(overlay: str, build: Build) -> None:
    deployment = one(build(DEPLOY / "kubernetes/overlays" / overlay), "Deployment")["spec"]
    (spread,) = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"] == deployment["selector"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == (
        "kubernetes.io/hostname",
        "ScheduleAnyway",
    )


def test_a_pod_is_given_the_time_that_its_stop_may_take(build: Build) -> None:
    server = settings.load(DEPLOY / "kubernetes/base/sidecar.toml", {}).server
    (pod,) = pods(build(DEPLOY / "kubernetes/overlays/in-path"))
    predictor = one(build(DEPLOY / "kserve"), "InferenceService")["spec"]["predictor"]
    longest = server.shutdown_delay_seconds + 2 * server.grace_seconds
    assert pod["terminationGracePeriodSeconds"] > longest
    assert predictor["terminationGracePeriodSeconds"] > longest


def test_the_shadow_gets_a_copy_of_what_another_service_answers(build: Build) -> None:
    objects = build(DEPLOY / "kubernetes/overlays/shadow")
    rule, _ = one(objects, "GRPCRoute")["spec"]["rules"]
    (mirror,) = rule["filters"]
    copied = mirror["requestMirror"]["backendRef"]["name"]
    assert copied == one(objects, "Service")["metadata"]["name"]
    assert copied not in {backend["name"] for backend in rule["backendRefs"]}


def test_calls_that_are_not_copied_are_answered_all_the_same(build: Build) -> None:
    inference, rest = one(build(DEPLOY / "kubernetes/overlays/shadow"), "GRPCRoute")["spec"]["rules"]
    assert "filters" not in rest
    assert [match["method"].keys() for match in rest["matches"]] == [{"service"}]
    assert rest["backendRefs"] == inference["backendRefs"]


def test_the_gpu_overlay_takes_the_image_and_the_device_for_it(build: Build) -> None:
    objects = build(DEPLOY / "kubernetes/overlays/gpu")
    (container,) = pods(objects)[0]["containers"]
    assert container["image"].endswith(":cuda")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert environment(objects) == {"SIDECAR_MODELS__0__DEVICE": "cuda"}


def test_with_tls_no_port_is_insecure_and_probes_speak_https(build: Build) -> None:
    objects = build(DEPLOY / "kubernetes/overlays/tls")
    (container,) = pods(objects)[0]["containers"]
    assert environment(objects)["SIDECAR_SERVER__INSECURE"] == "false"
    probes = [container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {probe["httpGet"]["scheme"] for probe in probes} == {"HTTPS"}


@pytest.mark.parametrize(("overlay", "protocol"), [("in-path", "kubernetes.io/h2c"), ("tls", "https")])
def test_the_service_says_what_its_grpc_port_speaks(overlay: str, protocol: str, build: Build) -> None:
    ports = one(build(DEPLOY / "kubernetes/overlays" / overlay), "Service")["spec"]["ports"]
    assert {port["name"]: port.get("appProtocol") for port in ports} == {"grpc": protocol, "metrics": None}


def test_the_attached_overlay_deploys_nothing_and_closes_no_port_of_anothers_pods(build: Build) -> None:
    kinds = {found["kind"] for found in build(DEPLOY / "kubernetes/overlays/attached")}
    assert kinds == {"PodMonitor", "PrometheusRule"}


def test_the_prometheus_rule_holds_the_rules_as_they_are() -> None:
    check = subprocess.run([sys.executable, DEPLOY / "generate.py", "--check"], check=False)
    assert check.returncode == 0
