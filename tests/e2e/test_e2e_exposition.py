"""A real Prometheus reads every format, and finds the same in native and in classic histograms."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from sidecar.console.access import Access
from sidecar.console.http import Standing, application
from sidecar.console.server import HttpServer
from sidecar.export.catalogue import CATALOGUE, OF_FURTHER_VERSIONS, OF_OTEL, SECONDS_BUCKETS, VALUE_BUCKETS
from sidecar.export.exposition import Exposition
from sidecar.export.native import ZERO_THRESHOLD
from sidecar.settings import ServerSettings
from sidecar.sketch import Reading, RequestRows, TapSketch
from tests.export.conftest import NOW, Exported, fresh_model
from tools.fetch import NEWER, TOOLS

__all__ = ["fresh_model"]

CONFIG = """\
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: sidecar
    static_configs: [{{targets: ["{target}"]}}]
"""


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def values():
    """Activations as they are met: most near 0, a few far out, of both signs."""
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal(200_000) * rng.gamma(0.5, 2.0, 200_000)
    return drawn.astype(np.float32).reshape(-1, 4)


@pytest.fixture(scope="module")
def latencies():
    return np.random.default_rng(1).gamma(2.0, 0.01, 5000)


@pytest.fixture(scope="module")
def scraped(fresh_model, values, latencies):
    """`host:port` of a sidecar's HTTP port that has seen them."""
    fresh = fresh_model(3)
    sketches = {tap: TapSketch.from_array(values, 2.0**-10, 1) for tap in fresh.timeline.taps}
    fresh.timeline.add(Reading(NOW, sketches, dict.fromkeys(sketches, RequestRows(np.zeros((1, 6)))), 1))
    exported = Exported(fresh)
    for seconds in latencies:
        exported.serving.request_started("digits", "1")
        exported.serving.request_finished("digits", "1", "OK", float(seconds), "")
    app = application(
        Exposition(exported.registry, 1.0),
        Standing([fresh]),
        Access(*[lambda _: True] * 3),
    )
    server = HttpServer(app, ServerSettings(http_port=0), None)
    yield f"127.0.0.1:{server.start()}"
    server.stop(5)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Asked:
    """Prometheus' API."""

    def __init__(self, port):
        self._base = f"http://127.0.0.1:{port}/api/v1"

    def _get(self, path):
        with urllib.request.urlopen(f"{self._base}/{path}", timeout=10) as reply:
            return json.loads(reply.read())["data"]

    def query(self, expression):
        return self._get(f"query?{urllib.parse.urlencode({'query': expression})}")["result"]

    def number(self, expression):
        (result,) = self.query(expression)
        return float(result["value"][1])

    def targets(self):
        return self._get("targets")["activeTargets"]


def wait_for_a_scrape(asked):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(OSError):
            targets = asked.targets()
            assert not any(one["lastError"] for one in targets)
            if targets and targets[0]["health"] == "up" and asked.query("sidecar_series"):
                return
        time.sleep(0.1)  # there is no event to wait for in another process
    raise AssertionError("Prometheus has scraped nothing")


@contextmanager
def prometheus(path, folder, target, *, native):
    config = folder / "prometheus.yml"
    config.write_text(CONFIG.format(target=target))
    port = free_port()
    command = [
        path, f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}", *(["--enable-feature=native-histograms"] if native else []),
    ]  # fmt: skip
    with open(folder / "log", "w", encoding="utf-8") as log:
        running = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        asked = Asked(port)
        wait_for_a_scrape(asked)
        yield asked
    finally:
        running.terminate()
        running.wait(30)


@pytest.fixture(scope="module")
def classic(program, tmp_path_factory, scraped):
    folder = tmp_path_factory.mktemp("classic")
    with prometheus(program("prometheus"), folder, scraped, native=False) as asked:
        yield asked


@pytest.fixture(scope="module", params=["prometheus", NEWER])
def native(request, tmp_path_factory, scraped, program):
    if request.param == NEWER and not (TOOLS / "bin" / NEWER).exists():
        pytest.skip("there is no newer Prometheus; `make test-full` fetches one where it can be had")
    folder = tmp_path_factory.mktemp("native")
    with prometheus(program(request.param), folder, scraped, native=True) as asked:
        yield asked


TAP = '{layer="1",site="resid"}'


def width(bounds, value):
    """Of the classic bucket that a value lies in."""
    above = next(i for i, bound in enumerate(bounds) if bound >= value)
    return bounds[above] - bounds[above - 1]


@pytest.mark.parametrize("q", [0.05, 0.25, 0.5, 0.75, 0.9, 0.99])
def test_quantiles_of_values_agree_between_native_and_classic_buckets(classic, native, values, q):
    true = float(np.quantile(values, q))
    of_native = native.number(f"histogram_quantile({q}, sidecar_activation_value{TAP})")
    of_classic = classic.number(f"histogram_quantile({q}, sidecar_activation_value_bucket{TAP})")
    assert of_native == pytest.approx(true, rel=0.13, abs=ZERO_THRESHOLD)
    assert abs(of_classic - true) <= width(VALUE_BUCKETS, true)
    assert abs(of_classic - of_native) <= width(VALUE_BUCKETS, true) + 0.13 * abs(true)


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_quantiles_of_latency_agree_between_native_and_classic_buckets(classic, native, latencies, q):
    true = float(np.quantile(latencies, q))
    of_native = native.number(f"histogram_quantile({q}, sidecar_request_duration_seconds)")
    of_classic = classic.number(f"histogram_quantile({q}, sidecar_request_duration_seconds_bucket)")
    assert of_native == pytest.approx(true, rel=0.1)
    assert abs(of_classic - of_native) <= width(SECONDS_BUCKETS, true) + 0.1 * true


def test_native_histograms_hold_all_values_and_their_sum(native, values):
    assert native.number(f"histogram_count(sidecar_activation_value{TAP})") == values.size
    total = float(values.astype(np.float64).sum())
    assert native.number(f"histogram_sum(sidecar_activation_value{TAP})") == pytest.approx(total)


def test_the_share_of_negative_values_is_that_of_the_model(native, values):
    share = native.number(f"histogram_fraction(-Inf, 0, sidecar_activation_value{TAP})")
    assert share == pytest.approx(np.mean(values < 0), abs=0.002)


@pytest.mark.parametrize("server", ["classic", "native"])
def test_every_family_arrives(classic, native, server):
    asked = {"classic": classic, "native": native}[server]
    found = {result["metric"]["__name__"] for result in asked.query('count by (__name__) ({job="sidecar"})')}
    for metric in CATALOGUE:
        if metric in (*OF_FURTHER_VERSIONS, *OF_OTEL) or metric.name.startswith("sidecar_store"):
            continue
        if metric.kind == "histogram":
            name = metric.name if server == "native" and metric.native else f"{metric.name}_bucket"
            assert name in found
        else:
            assert metric.name in found


def test_promtool_has_nothing_to_say_about_a_scrape(program, scraped):
    with urllib.request.urlopen(f"http://{scraped}/metrics", timeout=10) as reply:
        page = reply.read()
    done = subprocess.run(
        [program("promtool"), "check", "metrics"], input=page, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
