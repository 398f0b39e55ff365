"""The rules and configurations, as Prometheus' and Alertmanager's own checkers see them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
RULES = sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
RULE_TESTS = sorted(Path(__file__).parent.glob("*.test.yml"))
ALERTS = [
    rule["alert"]
    for path in RULES
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
]
CASES = [case["name"] for path in RULE_TESTS for case in yaml.safe_load(path.read_text())["tests"]]


def run(*command: object) -> None:
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.name)
def test_rules_do_what_their_cases_say(path: Path, program: Callable[[str], Path]) -> None:
    run(program("promtool"), "test", "rules", path)


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_rules_are_valid(path: Path, program: Callable[[str], Path]) -> None:
    run(program("promtool"), "check", "rules", "--lint-fatal", path)


def test_prometheus_takes_its_configuration(program: Callable[[str], Path]) -> None:
    run(program("promtool"), "check", "config", "--lint-fatal", ROOT / "deploy/prometheus/prometheus.yml")


def test_alertmanager_takes_its_configuration(program: Callable[[str], Path]) -> None:
    run(program("amtool"), "check-config", ROOT / "deploy/alertmanager/alertmanager.yml")


@pytest.mark.parametrize("alert", ALERTS)
@pytest.mark.parametrize("outcome", ["fires", "stays silent"])
def test_each_alert_has_a_case_where_it_fires_and_one_where_it_does_not(alert: str, outcome: str) -> None:
    assert any(case.startswith(f"{alert} {outcome}") for case in CASES)
