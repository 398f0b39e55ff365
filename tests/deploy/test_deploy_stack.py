"""`make stack`: sidecar, Prometheus and Alertmanager with the shipped configuration, on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tools import stack

ROOT = Path(__file__).parent.parent.parent
LIMIT_SECONDS = 60.0
PORTS = stack.Ports(grpc=1, http=2, prometheus=3, alertmanager=4, webhook=5)


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as reply:
        return json.loads(reply.read())


def closed(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5)
    except OSError:
        return True
    return False


def eventually(condition: Callable[[], bool]) -> bool:
    """Poll until `condition` holds: there is no event to wait for in another process."""
    end = time.monotonic() + LIMIT_SECONDS
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.25)
    return True


class Running:
    """The stack, its addresses by name, and how it ended once `stop` was called."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self.lines: list[str] = []
        for line in process.stdout:
            self.lines.append(line)
            if line.startswith("traffic"):
                break
        self.at = dict(re.findall(r"^(\w+) +(http://[\d.:]+)", "".join(self.lines), re.MULTILINE))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(LIMIT_SECONDS)


@pytest.fixture(scope="module")
def running(program: Callable[[str], Path], demo_weights: Path) -> Iterator[Running]:
    for name in ("prometheus", "prometheus-alertmanager"):
        program(name)
    environ = os.environ | {"XDG_CACHE_HOME": str(demo_weights.parent.parent), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tools/stack.py"), "--free-ports"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        try:
            yield Running(process)
        finally:
            if process.poll() is None:
                process.terminate()


@pytest.mark.slow
def test_it_prints_the_address_of_each_part(running: Running) -> None:
    assert running.at.keys() == {"sidecar", "Prometheus", "Alertmanager"}, running.lines


@pytest.mark.slow
def test_prometheus_scrapes_the_sidecar(running: Running) -> None:
    def up() -> bool:
        targets = get(f"{running.at['Prometheus']}/api/v1/targets")["data"]["activeTargets"]
        return [target["health"] for target in targets] == ["up"]

    assert eventually(up)


@pytest.mark.slow
def test_prometheus_has_the_shipped_rules(running: Running) -> None:
    groups = get(f"{running.at['Prometheus']}/api/v1/rules")["data"]["groups"]
    assert "SidecarActivationDrift" in {rule["name"] for group in groups for rule in group["rules"]}


@pytest.mark.slow
def test_prometheus_sends_its_alerts_to_alertmanager(running: Running) -> None:
    def known() -> bool:
        found = get(f"{running.at['Prometheus']}/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
        return [one["url"] for one in found] == [f"{running.at['Alertmanager']}/api/v2/alerts"]

    assert eventually(known)


@pytest.mark.slow
def test_the_demos_traffic_is_observed(running: Running) -> None:
    assert eventually(
        lambda: get(f"{running.at['sidecar']}/api/v1/status")["models"][0]["sampled_requests"] > 0
    )


@pytest.mark.slow
def test_what_alertmanager_sends_is_printed(running: Running) -> None:
    """Comes after the tests above and ends the stack, so that what it printed can be read to the end."""
    alert = {"labels": {"alertname": "Trial", "model": "m"}, "annotations": {"summary": "from a test"}}
    request = urllib.request.Request(
        f"{running.at['Alertmanager']}/api/v2/alerts",
        json.dumps([alert]).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=5).close()
    assert running.process.stdout is not None
    assert any("firing: Trial: from a test" in line for line in running.process.stdout)


@pytest.mark.slow
def test_a_signal_ends_all_of_it_in_order(running: Running) -> None:
    assert running.stop() == 0
    assert all(closed(url) for url in running.at.values())


def test_the_shipped_configurations_hold_every_address_that_is_put_in() -> None:
    prometheus = stack.prometheus_config((ROOT / "deploy/prometheus/prometheus.yml").read_text(), PORTS)
    alertmanager = stack.alertmanager_config(
        (ROOT / "deploy/alertmanager/alertmanager.yml").read_text(), PORTS
    )
    assert set(re.findall(r"127\.0\.0\.1:(\d+)", prometheus)) == {"2", "4"}
    assert set(re.findall(r"127\.0\.0\.1:(\d+)", alertmanager)) == {"5"}
    assert f"{ROOT}/deploy/prometheus/rules/*.yml" in prometheus
