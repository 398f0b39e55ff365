"""The whole path: `sidecar serve`, tritonclient traffic, a real Prometheus with the shipped rules."""

import asyncio
import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as triton

from grafana.expressions import panel_expressions
from sidecar.demo import training
from sidecar.demo.run import CONFIG, WEIGHTS, server
from sidecar.demo.shifts import Scenario, draws, shifted

ROOT = Path(__file__).parent.parent.parent
RATE = 150
SPAN_SECONDS = 40.0

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


@pytest.mark.slow
async def test_the_drift_alert_fires_after_the_shift_and_not_before_and_every_panel_has_data(
    program, tmp_path
):
    prometheus = program("prometheus")
    weights = training.weights(ROOT / "build" / WEIGHTS, lambda _: None)
    config = tmp_path / "sidecar.toml"
    text = CONFIG.format(model="digits", weights=weights, grpc_port=0, http_port=0)
    config.write_text(
        text + "\n[drift]\nreference_requests = 2000\nwindow_seconds = 10\n[timeline]\npane_seconds = 2\n"
    )
    data, random = training.digits(), np.random.default_rng(0)
    normal = draws(data.test_images, data.test_labels)
    noise = shifted(Scenario.NOISE, data.test_images, data.test_labels)
    async with server(config) as (grpc_address, http_address):
        (tmp_path / "prometheus.yml").write_text(
            PROMETHEUS.format(rules=ROOT / "deploy/prometheus/rules", target=http_address)
        )
        port = free_port()
        running = subprocess.Popen(
            [
                prometheus,
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        queries, client = Queries(port), triton.InferenceServerClient(grpc_address)
        try:

            def ready():
                try:
                    return queries.query("sidecar_reference_ready == 1")
                except OSError:
                    return []

            await traffic_until(client, normal, random, eventually("reference", ready, 60), rate=600)
            watch = eventually("quiet time over", quiet(queries, SPAN_SECONDS), SPAN_SECONDS + 10)
            await traffic_until(client, normal, random, watch)
            dashboard = json.loads((ROOT / "grafana/dashboards/sidecar-overview.json").read_text())
            empty = [(title, expr) for title, expr in panel_expressions(dashboard) if not queries.query(expr)]
            assert empty == []
            alert = eventually("drift alert", lambda: queries.firing("SidecarActivationDrift"), SPAN_SECONDS)
            fired = await traffic_until(client, noise, random, alert)
            assert {"digits"} == {result["metric"]["model"] for result in fired}
        finally:
            await client.close()
            running.terminate()
            running.wait()
