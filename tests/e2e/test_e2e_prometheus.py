"""The whole path: `sidecar serve`, tritonclient traffic, a real Prometheus with the shipped rules."""

import asyncio
import contextlib
import json
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

from grafana.expressions import panel_expressions
from sidecar.demo import training
from sidecar.demo.run import CONFIG, server
from sidecar.demo.shifts import Scenario, shifted

ROOT = Path(__file__).parent.parent.parent
RATE = 150
SPAN_SECONDS = 40.0
SCRAPE_SECONDS = 1.0
# Between the moment of a scrape and the next tick of the rules, on a machine that is busy.
ROUNDING_SECONDS = 0.5

PROMETHEUS = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}/*.yml"]
scrape_configs:
  - job_name: sidecar
    static_configs: [{{targets: ["{target}"]}}]
"""


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
    async def one():
        image, _ = draw(random)
        tensor = triton.InferInput("image", [1, 64], "FP32")
        tensor.set_data_from_numpy(np.ascontiguousarray(image, np.float32)[None])
        reply = await client.infer("digits", [tensor])
        assert reply.as_numpy("logits").shape == (1, 10)

    async with asyncio.TaskGroup() as group:
        while not stop.is_set():
            group.create_task(one())
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
def prometheus_running(program, folder, target):
    """A Prometheus with the shipped rules that scrapes `target`; gives its queries."""
    (folder / "prometheus.yml").write_text(
        PROMETHEUS.format(rules=ROOT / "deploy/prometheus/rules", target=target)
    )
    port = free_port()
    running = subprocess.Popen(
        [
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Queries(port)
    finally:
        running.terminate()
        running.wait()


@dataclass
class Stack:
    """A served model with its reference recorded, a client of it, and the Prometheus that scrapes it."""

    client: triton.InferenceServerClient
    queries: Queries
    data: training.Digits
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    async def send(self, scenario, condition, rate=RATE):
        """Traffic as `scenario` makes it until `condition` is done; its result."""
        draw = shifted(scenario, self.data.test_images, self.data.test_labels)
        return await traffic_until(self.client, draw, self.random, condition, rate)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(program, demo_weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stack")
    config = folder / "sidecar.toml"
    text = CONFIG.format(model="digits", weights=demo_weights, grpc_port=0, http_port=0)
    config.write_text(
        text + "\n[drift]\nreference_requests = 2000\nwindow_seconds = 10\n[timeline]\npane_seconds = 2\n"
    )
    async with server(config) as (grpc_address, http_address):
        with prometheus_running(program, folder, http_address) as queries:
            client = triton.InferenceServerClient(grpc_address)
            stack = Stack(client, queries, training.digits())

            def ready():
                try:
                    return queries.query("sidecar_reference_ready == 1")
                except OSError:
                    return []

            await stack.send(Scenario.NONE, eventually("reference", ready, 60), rate=600)
            yield stack
            await client.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_the_drift_alert_fires_after_the_shift_and_not_before(stack):
    watch = eventually("quiet time over", quiet(stack.queries, SPAN_SECONDS), SPAN_SECONDS + 10)
    await stack.send(Scenario.NONE, watch)
    alert = eventually("drift alert", lambda: stack.queries.firing("SidecarActivationDrift"), SPAN_SECONDS)
    fired = await stack.send(Scenario.NOISE, alert)
    assert {"digits"} == {result["metric"]["model"] for result in fired}


@pytest.mark.asyncio(loop_scope="module")
async def test_every_panel_of_the_dashboard_has_data(stack):
    dashboard = json.loads((ROOT / "grafana/dashboards/sidecar-overview.json").read_text())
    expressions = panel_expressions(dashboard)

    def empty():
        return [(title, expr) for title, expr in expressions if not stack.queries.query(expr)]

    await stack.send(Scenario.NONE, eventually("no panel is empty", lambda: not empty(), 20))


@pytest.mark.asyncio(loop_scope="module")
async def test_a_numeric_fault_fires_the_non_finite_alert_within_one_scrape(stack):
    def fired():
        return stack.queries.samples('ALERTS{alertname="SidecarNonFiniteActivations", alertstate="firing"}')

    alerts = await stack.send(Scenario.NUMERIC_FAULT, eventually("non-finite alert", fired, 20))
    counted = stack.queries.samples("sidecar_activation_nonfinite_total")
    first_seen = min(moment for moment, value in counted if value > 0)
    assert min(moment for moment, _ in alerts) - first_seen <= SCRAPE_SECONDS + ROUNDING_SECONDS
