"""What the kustomize components add to the overlays, and the ways of adoption that docs/deployment.md and
docs/security.md write down."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sidecar import settings
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
KUBERNETES = ROOT / "deploy/kubernetes"
SERVING = ["in-path", "shadow", "gpu", "tls"]
ADDED = ["otel", "replicas", "persistence"]

Build = Callable[[Path], Objects]
Extend = Callable[..., Objects]


@pytest.mark.parametrize("overlay", SERVING)
def test_an_overlay_with_components_is_valid_and_as_hard(overlay: str, extend: Extend) -> None:
    objects = extend(overlay, *ADDED)
    for found in objects:
        validate(found)
    assert all(hardened(pod) and one_source_each(pod) for pod in pods(objects))


@pytest.mark.parametrize("overlay", SERVING)
def test_with_persistence_each_pod_writes_reference_evidence_and_panes_to_a_volume_of_its_own(
    overlay: str, extend: Extend
) -> None:
    objects = extend(overlay, *ADDED)
    assert "Deployment" not in {found["kind"] for found in objects}
    (claim,) = one(objects, "StatefulSet")["spec"]["volumeClaimTemplates"]
    (container,) = pods(objects)[0]["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    loaded = settings.load(KUBERNETES / "base/sidecar.toml", environment(objects))
    assert loaded.drift.state == Path("/data/drift")
    assert loaded.store.path == "/data/activations.db"
    assert mounts["/data"] == {"name": claim["metadata"]["name"], "mountPath": "/data"}


def test_a_volume_holds_the_store_as_large_as_it_may_grow_and_two_that_were_set_aside(extend: Extend) -> None:
    (claim,) = one(extend("in-path", *ADDED), "StatefulSet")["spec"]["volumeClaimTemplates"]
    store = settings.load(KUBERNETES / "base/sidecar.toml", {}).store
    size = claim["spec"]["resources"]["requests"]["storage"]
    assert int(size.removesuffix("Gi")) * 2**30 > 3 * store.max_megabytes * 2**20


def test_pods_with_persistence_have_names_in_the_service(extend: Extend) -> None:
    objects = extend("in-path", *ADDED)
    service = one(objects, "Service")
    assert service["spec"]["clusterIP"] == "None"
    assert one(objects, "StatefulSet")["spec"]["serviceName"] == service["metadata"]["name"]


@pytest.mark.parametrize("overlay", SERVING)
def test_replicas_may_read_each_other_and_ask_for_names(overlay: str, extend: Extend) -> None:
    objects = extend(overlay, *ADDED)
    labels = one(objects, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    policy = one(objects, "NetworkPolicy", "activation-sidecar-replicas")
    assert selects(policy["spec"]["podSelector"], labels)
    assert admits(policy, "metrics", labels)
    assert not admits(policy, "metrics", {})
    there, names = policy["spec"]["egress"]
    assert selects(there["to"][0]["podSelector"], labels)
    assert there["ports"] == [{"port": 8002}]
    assert {port["port"] for port in names["ports"]} == {53}


def test_the_way_out_to_a_collector_leads_to_the_address_that_is_pushed_to(extend: Extend) -> None:
    objects = extend("in-path", *ADDED)
    endpoint = environment(objects)["SIDECAR_OTEL__ENDPOINT"]
    policy = one(objects, "NetworkPolicy", "activation-sidecar-otel")
    (peer,) = policy["spec"]["egress"][0]["to"]
    namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    (port,) = policy["spec"]["egress"][0]["ports"]
    assert endpoint.endswith(f".{namespace}:{port['port']}")


def test_the_overlay_of_ones_own_in_the_docs_can_be_built(tmp_path: Path, build: Build) -> None:
    (example,) = re.findall(
        r"```yaml\n(apiVersion: .*?)```", (ROOT / "docs/deployment.md").read_text(), re.DOTALL
    )
    there = os.path.relpath(ROOT, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(
        example.replace("activation-sidecar/deploy", f"{there}/deploy")
    )
    (tmp_path / "sidecar.toml").write_text("# mine\n")
    objects = build(tmp_path)
    for found in objects:
        validate(found)
    (pod,) = pods(objects)
    (container,) = pod["containers"]
    assert container["image"] == "registry.example.com/activation-sidecar:0.1.0"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert one_source_each(pod)
    assert {"name": "models", "persistentVolumeClaim": {"claimName": "models"}} in pod["volumes"]
    configuration = one(objects, "ConfigMap")
    assert configuration["data"] == {"sidecar.toml": "# mine\n"}
    assert {"name": "config", "configMap": {"name": configuration["metadata"]["name"]}} in pod["volumes"]
    assert {found["metadata"]["namespace"] for found in objects} == {"ml"}


@pytest.fixture(scope="module")
def secret(program: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the commands of docs/security.md write, but to nobody's cluster."""
    (commands,) = re.findall(
        r"```\n(openssl .*?)^kubectl apply", (ROOT / "docs/security.md").read_text(), re.S | re.M
    )
    program("openssl")
    folder = tmp_path_factory.mktemp("secret")
    for name in ("tls.crt", "tls.key"):
        (folder / name).write_text(name)
    made = subprocess.run(
        ["sh", "-ec", commands.replace("kubectl", f"{program('kubectl')}").rstrip() + " --dry-run=client -o yaml"],
        cwd=folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = yaml.safe_load(made.stdout)
    validate(found)
    return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}


def test_prometheus_is_handed_one_token_that_the_sidecar_knows_without_an_end_of_line(
    secret: dict[str, str], extend: Extend
) -> None:
    objects = extend("tls", *ADDED)
    (endpoint,) = one(objects, "ServiceMonitor")["spec"]["endpoints"]
    handed = secret[endpoint["authorization"]["credentials"]["key"]]
    known = secret[Path(environment(objects)["SIDECAR_SERVER__TOKEN_FILE"]).name].splitlines()
    assert handed in known
    assert len(known) == 2
    assert handed == handed.strip()


def test_the_secret_has_every_key_that_is_asked_for(secret: dict[str, str], extend: Extend) -> None:
    objects = extend("tls", *ADDED)
    (endpoint,) = one(objects, "ServiceMonitor")["spec"]["endpoints"]
    mounted = {Path(value).name for value in environment(objects).values() if "/etc/sidecar-tls/" in value}
    asked = {endpoint["authorization"]["credentials"]["key"], endpoint["tlsConfig"]["ca"]["secret"]["key"]}
    assert secret.keys() == mounted | asked
