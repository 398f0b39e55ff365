"""The Kubernetes objects: each file, and what kustomize makes of each overlay."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.objects import SPECS, hardened, pods, validate

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
FILES = [
    path
    for folder in ("kubernetes", "kserve")
    for path in sorted((DEPLOY / folder).rglob("*.yaml"))
    if path.name != "kustomization.yaml"
]
OVERLAYS = [DEPLOY / "kserve", *sorted((DEPLOY / "kubernetes/overlays").iterdir())]

Objects = list[dict[str, Any]]
Build = Callable[[Path], Objects]


def named(path: Path) -> str:
    return str(path.relative_to(DEPLOY))


@pytest.fixture(scope="module")
def build(program: Callable[[str], Path]) -> Build:
    """Folder of an overlay -> the objects that kustomize makes of it."""

    @cache
    def built(folder: Path) -> Objects:
        done = subprocess.run(
            [program("kubectl"), "kustomize", folder], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return list(yaml.safe_load_all(done.stdout))

    return built


def one(objects: Objects, kind: str) -> dict[str, Any]:
    (found,) = [candidate for candidate in objects if candidate["kind"] == kind]
    return found


def environment(objects: Objects) -> dict[str, str]:
    (container,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return {variable["name"]: variable["value"] for variable in container.get("env", [])}


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


@pytest.mark.parametrize("overlay", ["in-path", "shadow", "gpu", "tls"])
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


@pytest.mark.parametrize("overlay", ["in-path", "shadow", "gpu", "tls"])
def test_the_pods_mount_the_configuration_that_is_generated(overlay: str, build: Build) -> None:
    objects = build(DEPLOY / "kubernetes/overlays" / overlay)
    volumes = one(objects, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert one(objects, "ConfigMap")["metadata"]["name"] in {
        volume["configMap"]["name"] for volume in volumes if "configMap" in volume
    }


def test_the_shadow_gets_a_copy_of_what_another_service_answers(build: Build) -> None:
    objects = build(DEPLOY / "kubernetes/overlays/shadow")
    (rule,) = one(objects, "GRPCRoute")["spec"]["rules"]
    (mirror,) = rule["filters"]
    copied = mirror["requestMirror"]["backendRef"]["name"]
    assert copied == one(objects, "Service")["metadata"]["name"]
    assert copied not in {backend["name"] for backend in rule["backendRefs"]}


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


def test_the_attached_overlay_deploys_nothing(build: Build) -> None:
    kinds = {found["kind"] for found in build(DEPLOY / "kubernetes/overlays/attached")}
    assert kinds == {"PodMonitor", "NetworkPolicy", "PrometheusRule"}


def test_the_prometheus_rule_holds_the_rules_as_they_are() -> None:
    check = subprocess.run([sys.executable, DEPLOY / "generate.py", "--check"], check=False)
    assert check.returncode == 0
