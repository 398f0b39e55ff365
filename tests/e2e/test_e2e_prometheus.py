"""The whole path: `sidecar serve`, tritonclient traffic, real Prometheus and Alertmanager as shipped, a webhook."""

import asyncio
import contextlib
import itertools
import json
import math
import re
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as triton
import yaml

from grafana.expressions import annotation_expressions, panel_expressions
from sidecar.demo import training
from sidecar.demo.run import CONFIG, server
from sidecar.demo.shifts import Scenario, shifted
from tools.stack import Ports, alertmanager, alertmanager_config, receiver

ROOT = Path(__file__).parent.parent.parent
RULES = ROOT / "deploy/prometheus/rules"
DASHBOARDS = sorted((ROOT / "grafana/dashboards").glob("*.json"))
RATE = 150
SPAN_SECONDS = 40.0
SCRAPE_SECONDS = 1.0
# Between the moment of a scrape and the next tick of the rules, on a machine that is busy.
ROUNDING_SECONDS = 0.5

PROMETHEUS = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}/*.yml"]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{alertmanager}"]}}]}}]}}
scrape_configs:
  - job_name: sidecar
    static_configs: [{{targets: ["{target}"]}}]
"""


# Two versions of the model, that they can be compared; a request without an id would always go to the first.
VERSION = 'threads = 1\nversion = "{}"\n'
CANARY = 'canary = {"2" = 0.3}\n'


def two_versions(config):
    model, rest = config.split("[capture]")
    one, two = (model.replace("threads = 1\n", VERSION.format(version)) for version in "12")
    return f"{one.replace('[[models.inputs]]', CANARY + '[[models.inputs]]')}{two}[capture]{rest}"


def recorded():
    groups = [group for path in RULES.glob("*.yml") for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule["record"] for group in groups for rule in group["rules"] if "record" in rule]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=10) as reply:
        return json.loads(reply.read())


class Queries:
    def __init__(self, port):
        self.base = f"http://127.0.0.1:{port}/api/v1"

    def query(self, expression):
        return get(f"{self.base}/query?{urllib.parse.urlencode({'query': expression})}")["data"]["result"]

    def samples(self, selector):
        """(unix seconds, value) of all series of `selector` in the last five minutes."""
        return [(t, float(v)) for series in self.query(f"{selector}[5m]") for t, v in series["values"]]

    def firing(self, alert):
        return self.query(f'ALERTS{{alertname="{alert}", alertstate="firing"}}')


async def eventually(what, condition, seconds):
    """Poll until `condition` holds: there is no event to wait for in another process."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := await asyncio.to_thread(condition):
            return found
        await asyncio.sleep(0.25)
    raise AssertionError(f"not within {seconds} s: {what}")


async def send(client, draw, random, rate, stop):
    async def one(number):
        image, _ = draw(random)
        tensor = triton.InferInput("image", [1, 64], "FP32")
        tensor.set_data_from_numpy(np.ascontiguousarray(image, np.float32)[None])
        reply = await client.infer("digits", [tensor], request_id=f"request-{number}")
        assert reply.as_numpy("logits").shape == (1, 10)

    async with asyncio.TaskGroup() as group:
        for number in itertools.count():
            if stop.is_set():
                break
            group.create_task(one(number))
            await asyncio.sleep(1 / rate)


async def traffic_until(client, draw, random, condition, rate=RATE):
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(send(client, draw, random, rate, stop))
        try:
            return await condition
        finally:
            stop.set()


def quiet(queries, seconds):
    end = time.monotonic() + seconds

    def over():
        assert queries.firing("SidecarActivationDrift") == []
        return time.monotonic() >= end

    return over


@contextlib.contextmanager
def running(folder, *command):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def monitoring(program, folder, target, *, native):
    """Prometheus with the shipped rules scrapes `target` and tells Alertmanager; gives queries and what that sent.

    native: it keeps native histograms, and Prometheus 2.42 then no classic ones of the same families.
    """
    program("prometheus-alertmanager")
    ports = Ports(prometheus=free_port(), alertmanager=free_port(), webhook=free_port())
    (folder / "prometheus.yml").write_text(
        PROMETHEUS.format(rules=RULES, target=target, alertmanager=ports.alertmanager)
    )
    shipped = alertmanager_config((ROOT / "deploy/alertmanager/alertmanager.yml").read_text(), ports)
    for slow, quick in (("group_wait: 5s", "group_wait: 1s"), ("group_interval: 1m", "group_interval: 1s")):
        assert slow in shipped
        shipped = shipped.replace(slow, quick)
    (folder / "alertmanager.yml").write_text(shipped)
    notified = []
    with (
        receiver(ports.webhook, notified.append),
        running(
            folder,
            alertmanager(folder),
            "--config.file=alertmanager.yml",
            "--storage.path=alertmanager",
            f"--web.listen-address=127.0.0.1:{ports.alertmanager}",
            "--cluster.listen-address=",
        ),
        running(
            folder,
            program("prometheus"),
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=tsdb",
            f"--web.listen-address=127.0.0.1:{ports.prometheus}",
            *(["--enable-feature=native-histograms"] if native else []),
        ),
    ):
        yield Queries(ports.prometheus), notified


@dataclass
class Stack:
    """A served model with its reference recorded, a client of it, the Prometheus that scrapes it, and what was sent.

    notified: "firing: alert: summary" or "resolved: ..." in the order of their arrival at the webhook.
    """

    client: triton.InferenceServerClient
    queries: Queries
    notified: list[str]
    data: training.Digits
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    async def send(self, scenario, condition, rate=RATE):
        """Traffic as `scenario` makes it until `condition` is done; its result."""
        draw = shifted(scenario, self.data.test_images, self.data.test_labels)
        return await traffic_until(self.client, draw, self.random, condition, rate)


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["classic", "native"],
)
async def stack(request, program, demo_weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stack")
    config = folder / "sidecar.toml"
    text = CONFIG.format(model="digits", weights=demo_weights, grpc_port=0, http_port=0)
    config.write_text(
        two_versions(text)
        + "\n[drift]\nreference_requests = 2000\nwindow_seconds = 10\n[timeline]\npane_seconds = 2\n"
    )
    async with server(config) as (grpc_address, http_address):
        with monitoring(program, folder, http_address, native=request.param) as (queries, notified):
            client = triton.InferenceServerClient(grpc_address)
            stack = Stack(client, queries, notified, training.digits())

            def ready():
                try:
                    return len(queries.query("sidecar_reference_ready == 1")) == 2
                except OSError:
                    return False

            await stack.send(Scenario.NONE, eventually("references", ready, 90), rate=600)
            yield stack
            await client.close()


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
async def test_the_drift_alert_fires_after_the_shift_and_not_before(stack):
    watch = eventually("quiet time over", quiet(stack.queries, SPAN_SECONDS), SPAN_SECONDS + 10)
    await stack.send(Scenario.NONE, watch)
    alert = eventually("drift alert", lambda: stack.queries.firing("SidecarActivationDrift"), SPAN_SECONDS)
    fired = await stack.send(Scenario.NOISE, alert)
    assert {"digits"} == {result["metric"]["model"] for result in fired}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.slow
async def test_drift_is_notified_with_model_and_layer_and_resolved_after_the_shift(stack):
    drift = re.compile(r"(\w+): SidecarActivationDrift: digits [12]: activations of layer \d+ \(\w+\) drift")

    def last():
        """Of each layer that was notified."""
        found = [one for one in map(drift.match, stack.notified) if one]
        return {one[0].partition(": ")[2]: one[1] for one in found}

    await stack.send(Scenario.NOISE, eventually("notification", lambda: "firing" in last().values(), 60))
    await stack.send(Scenario.NONE, eventually("end", lambda: set(last().values()) == {"resolved"}, 90))


@pytest.mark.asyncio(loop_scope="module")
async def test_every_panel_of_the_dashboards_and_every_recorded_series_has_numbers(stack):
    pages = {path.stem: json.loads(path.read_text()) for path in DASHBOARDS}
    expressions = [(name, *each) for name, page in pages.items() for each in panel_expressions(page)]
    assert len(expressions) > 100
    expressions += [("rules", "recorded", name) for name in recorded()]
    wanting = []

    def full():
        wanting[:] = [
            (name, title, expr)
            for name, title, expr in expressions
            if all(math.isnan(float(series["value"][1])) for series in stack.queries.query(expr))
        ]
        return not wanting

    # What is wanting is said as it is when time is up.
    await stack.send(Scenario.NONE, eventually(wanting, full, 60))


@pytest.mark.asyncio(loop_scope="module")
async def test_every_kind_of_mark_can_be_asked_for_and_that_of_versions_was_set(stack):
    (marks,) = {tuple(annotation_expressions(json.loads(path.read_text()))) for path in DASHBOARDS}
    assert [type(stack.queries.query(expr)) for _, expr in marks] == [list] * 3
    assert stack.queries.query(f"max_over_time(({dict(marks)['Versions']})[10m:5s])")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_numeric_fault_fires_the_non_finite_alert_within_one_scrape(stack):
    def fired():
        return stack.queries.samples('ALERTS{alertname="SidecarNonFiniteActivations", alertstate="firing"}')

    alerts = await stack.send(Scenario.NUMERIC_FAULT, eventually("non-finite alert", fired, 20))
    counted = stack.queries.samples("sidecar_activation_nonfinite_total")
    first_seen = min(moment for moment, value in counted if value > 0)
    assert min(moment for moment, _ in alerts) - first_seen <= SCRAPE_SECONDS + ROUNDING_SECONDS
