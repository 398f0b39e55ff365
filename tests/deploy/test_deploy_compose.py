"""The compose file: valid, complete, closed to strangers, and in step with the configurations it is made from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import settings

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "deploy/compose"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
MOUNTS = [
    (name, source)
    for name, service in SERVICES.items()
    for source, _, _ in (volume.partition(":") for volume in service.get("volumes", []))
]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_the_file_follows_the_compose_specification() -> None:
    specification = pytest.importorskip("compose_spec", reason="compose_spec has no wheel for this platform")
    parsed = specification.PyCompose.from_yaml((FOLDER / "compose.yaml").read_text())
    parsed.validate()
    assert set(parsed.service_names()) == {"sidecar", "prometheus", "alertmanager", "grafana"}


def test_a_misspelt_key_is_refused() -> None:
    specification = pytest.importorskip("compose_spec", reason="compose_spec has no wheel for this platform")
    text = (FOLDER / "compose.yaml").read_text().replace("read_only:", "readonly:")
    with pytest.raises(ValueError, match="readonly"):
        specification.PyCompose.from_yaml(text)


@pytest.mark.parametrize(("service", "source"), MOUNTS)
def test_what_is_mounted_exists(service: str, source: str) -> None:
    assert (FOLDER / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_port_is_published_on_the_loopback_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name]["ports"])


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "sidecar"])
def test_every_image_names_its_version(name: str) -> None:
    assert SERVICES[name]["image"].rpartition(":")[2][-1].isdigit()


def test_the_sidecar_runs_hardened() -> None:
    sidecar = SERVICES["sidecar"]
    assert sidecar["read_only"] is True
    assert sidecar["cap_drop"] == ["ALL"]
    assert sidecar["security_opt"] == ["no-new-privileges:true"]


def test_the_caches_may_hold_libraries_that_are_loaded_from_them() -> None:
    run_by_hand = re.findall(r"--tmpfs (\S+)", (ROOT / "deploy/Dockerfile").read_text())
    assert run_by_hand == SERVICES["sidecar"]["tmpfs"] == ["/tmp:exec"]


def test_the_page_is_where_links_in_grafana_lead() -> None:
    (page,) = {
        variable["query"]
        for path in sorted((ROOT / "grafana/dashboards").glob("*.json"))
        for variable in json.loads(path.read_text())["templating"]["list"]
        if variable["name"] == "page"
    }
    assert f"{page.removeprefix('http://')}:8002" in SERVICES["sidecar"]["ports"]


def test_prometheus_is_configured_as_shipped_but_for_addresses() -> None:
    shipped = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
    moved = shipped.replace("127.0.0.1:9093", "alertmanager:9093").replace("127.0.0.1:8002", "sidecar:8002")
    assert read(FOLDER / "prometheus.yml") == yaml.safe_load(moved)


def test_grafanas_datasource_is_the_shipped_one_but_for_its_address() -> None:
    shipped = (ROOT / "grafana/provisioning/datasources/prometheus.yml").read_text()
    assert read(FOLDER / "datasources.yml") == yaml.safe_load(shipped.replace("127.0.0.1", "prometheus"))


@pytest.mark.parametrize("path", ["compose/sidecar.toml", "kubernetes/base/sidecar.toml"])
def test_the_sidecars_configuration_is_valid(path: str) -> None:
    loaded = settings.load(ROOT / "deploy" / path, {})
    assert (loaded.server.grpc_port, loaded.server.http_port) == (8001, 8002)


def test_the_configuration_of_the_kserve_runtime_is_valid_once_the_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "sidecar.toml").write_text(
        read(ROOT / "deploy/kserve/configmap.yaml")["data"]["sidecar.toml"]
    )
    loaded = settings.load(tmp_path / "sidecar.toml", {"SIDECAR_MODELS__0__NAME": "ranker"})
    assert loaded.models[0].runtime == "onnx"
