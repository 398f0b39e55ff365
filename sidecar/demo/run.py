"""The demo from end to end: train, serve in a child process, send traffic, let it go wrong, report."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.progress import Progress

from sidecar.demo import training
from sidecar.demo.shifts import Draw, Scenario, draws, shifted
from sidecar.demo.traffic import MODEL, Traffic
from sidecar.demo.view import screen
from sidecar.errors import ModelError

CONFIG = """\
# Written by `sidecar demo`; a start for a configuration of your own.
[[models]]
name = "{model}"
source = "sidecar.demo.model:build"
weights = "{weights}"
threads = 1

[[models.inputs]]
name = "image"
datatype = "FP32"
shape = [-1, 64]

[[models.outputs]]
name = "logits"
datatype = "FP32"
shape = [-1, 10]

[capture]
# Every request, whatever it costs: for a look, not for production.
sample_rate = 1.0
budget = 1.0

[console]
# Copies of 64 images in memory, for the page to show.
keep_inputs = 64

[server]
grpc_port = {grpc_port}
http_port = {http_port}
"""

# Bump when training changes, so that a cached model of an older version is not taken for it.
WEIGHTS = "digits-1.safetensors"
STABLE_SHARE = 0.4
STABLE_SECONDS = 20.0
POLL_SECONDS = 0.5
SETTLE_SECONDS = 10.0
START_SECONDS = 120.0


@contextlib.asynccontextmanager
async def server(config: Path) -> AsyncIterator[tuple[str, str]]:
    """`sidecar serve` in a child process; gives its gRPC and HTTP addresses, and stops it at the end.

    Raises ModelError when it does not start; what it said went to standard error.
    """
    # A session of its own: Ctrl-C shall reach this process first, which then stops the child in order.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar.cli", "serve", "--config", str(config),
        stdout=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), START_SECONDS)).decode()
        if (found := re.search(r"gRPC (\S+), HTTP (\S+)", line)) is None:
            raise ModelError("the demo's server did not start; its message is above")
        yield found[1], found[2]
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


class Demo:
    """One run. Raises ModelError when the server does not start."""

    def __init__(
        self, cache: Path, console: Console, scenario: Scenario, seconds: float | None, rate: float
    ) -> None:
        self._cache = cache
        self._console = console
        self._scenario = scenario
        self._seconds = seconds
        self._rate = rate
        self._status: dict[str, Any] = {}
        self._phase = "starting"
        self._addresses: dict[str, str] = {}
        self._stop = asyncio.Event()

    async def run(self) -> dict[str, Any]:
        """Returns the report; ends early, and cleanly, on SIGINT or SIGTERM."""
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        weights = await asyncio.to_thread(self._train)
        config = self._cache / "demo.toml"
        config.write_text(CONFIG.format(model=MODEL, weights=weights, **_ports()), encoding="utf-8")
        async with server(config) as (grpc_address, http_address):
            self._addresses = {
                "page": f"http://{http_address}/",
                "metrics": f"http://{http_address}/metrics",
                "status": f"http://{http_address}/api/v1/status",
                "gRPC": grpc_address,
            }
            traffic = Traffic(grpc_address, np.random.default_rng(0))
            try:
                async with self._shown(traffic):
                    return await self._phases(traffic)
            finally:
                await traffic.close()

    def _train(self) -> Path:
        with Progress(console=self._console, transient=True) as progress:
            task = progress.add_task("training on scikit-learn's digits (once)", total=1.0)
            return training.weights(
                self._cache / WEIGHTS, lambda share: progress.update(task, completed=share)
            )

    @contextlib.asynccontextmanager
    async def _shown(self, traffic: Traffic) -> AsyncIterator[None]:
        with Live(console=self._console, auto_refresh=False, screen=self._console.is_terminal) as live:

            async def refresh() -> None:
                while True:
                    await self._poll()
                    if self._console.is_terminal:
                        live.update(self._screen(traffic), refresh=True)
                    await asyncio.sleep(POLL_SECONDS)

            task = asyncio.create_task(refresh())
            try:
                yield
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._console.print(self._screen(traffic))

    def _screen(self, traffic: Traffic) -> Any:
        tally = traffic.tally
        p99 = tally.latency_ms(0.99)
        figures = {
            "requests/s": f"{tally.per_second(time.perf_counter()):,.0f}",
            "answered": f"{tally.total_answered:,}",
            "failed": f"{tally.failed:,}",
            "p99": "-" if p99 is None else f"{p99:.1f} ms",
            "telemetry / inference": f"{_share(self._status):.2%}",
        }
        return screen(self._phase, figures, self._addresses, self._status)

    async def _poll(self) -> None:
        body = await asyncio.to_thread(_fetch, self._addresses["status"])
        self._status = json.loads(body)["models"][0]

    async def _phases(self, traffic: Traffic) -> dict[str, Any]:
        data = training.digits()
        normal = draws(data.test_images, data.test_labels)
        started = time.perf_counter()
        self._phase = "recording a reference from live traffic"
        await self._while(traffic.flood, normal, "reference", until=self._reference_ready)
        left = None if self._seconds is None else self._seconds - (time.perf_counter() - started)
        self._phase = "normal traffic"
        shift = self._scenario is not Scenario.NONE
        stable = STABLE_SECONDS if left is None else left * (STABLE_SHARE if shift else 1.0)
        if left is None and not shift:
            stable = float("inf")
        await self._while(traffic.pace, normal, "before", self._rate, seconds=stable)
        await self._settle(traffic)
        before = self._status
        if shift and not self._stop.is_set():
            self._phase = f"traffic has gone wrong: {self._scenario}"
            wrong = shifted(self._scenario, data.test_images, data.test_labels)
            ends = float("inf") if left is None else left - stable
            await self._while(traffic.pace, wrong, "after", self._rate, seconds=ends)
            await self._settle(traffic)
        self._phase = f"done: {self._scenario}"
        return report(traffic, before, self._status)

    async def _while(
        self,
        send: Any,
        draw: Draw,
        phase: str,
        *extra: float,
        seconds: float = float("inf"),
        until: Any = None,
    ) -> None:
        """Send until `seconds` have passed, `until` says so, or the demo is stopped."""
        stop = asyncio.Event()
        sending = asyncio.create_task(send(draw, phase, *extra, stop))
        end = time.perf_counter() + seconds
        while not (
            sending.done() or self._stop.is_set() or (until and until()) or time.perf_counter() >= end
        ):
            await asyncio.wait([sending], timeout=min(0.1, max(0.0, end - time.perf_counter())))
        stop.set()
        await sending

    def _reference_ready(self) -> bool:
        return bool(self._status.get("reference_ready"))

    async def _settle(self, traffic: Traffic) -> None:
        """Wait until the server has judged all that was answered, so that ordinals can be counted from here."""
        deadline = time.perf_counter() + SETTLE_SECONDS
        while time.perf_counter() < deadline:
            await self._poll()
            seen = self._status["reference_requests"] + self._status["judged_requests"]
            if seen >= traffic.tally.total_answered:
                return
            await asyncio.sleep(POLL_SECONDS / 5)


def report(traffic: Traffic, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """before, after: the status just before the shift and at the end."""
    tally = traffic.tally
    at_shift = before["judged_requests"]

    def requests_to_alarm(layer: Mapping[str, Any]) -> int | None:
        later = [ordinal - at_shift for ordinal in layer["alarm_ordinals"] if ordinal > at_shift]
        return min(later, default=None)

    layers = [
        {
            "layer": layer["layer"],
            "site": layer["site"],
            "requests_to_alarm": requests_to_alarm(layer),
            "zero_share": layer["zero_share"],
            "absmax": layer["absmax"],
        }
        for layer in after["layers"]
    ]
    alarms = [layer["requests_to_alarm"] for layer in layers if layer["requests_to_alarm"] is not None]
    return {
        "sent": tally.sent,
        "answered": tally.total_answered,
        "failed": tally.failed,
        "accuracy_before": tally.accuracy("before"),
        "accuracy_after": tally.accuracy("after"),
        "requests_to_alarm": min(alarms, default=None),
        "false_alarms": before["model_alarms"],
        "telemetry_share": _share(after),
        "latency_p50_ms": tally.latency_ms(0.5),
        "latency_p99_ms": tally.latency_ms(0.99),
        "layers": layers,
    }


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where the trained model is kept: `activation-sidecar` under `$XDG_CACHE_HOME`, or under `~/.cache`.

    A relative `$XDG_CACHE_HOME` is ignored (XDG Base Directory Specification 0.8).
    """
    base = Path(environ.get("XDG_CACHE_HOME", ""))
    folder = (base if base.is_absolute() else Path.home() / ".cache") / "activation-sidecar"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _share(status: Mapping[str, Any]) -> float:
    inference = status.get("inference_seconds") or 0.0
    return status["telemetry_seconds"] / inference if inference else 0.0


def _ports() -> dict[str, int]:
    """The usual ports, or any free ones where something else holds them."""
    ports = {"grpc_port": 8001, "http_port": 8002}
    for name, port in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                ports[name] = 0
    return ports


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as reply:
        body: bytes = reply.read()
        return body
