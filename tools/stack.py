"""Sidecar, Prometheus and Alertmanager together on this machine, under the demo's traffic, until Ctrl-C.

All three run with the configuration that `deploy/` ships; only addresses and paths are put in. The traffic goes wrong
and right again in turns, and what Alertmanager sends is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from sidecar.demo import training
from sidecar.demo.run import CONFIG, WEIGHTS, cache_folder, server
from sidecar.demo.shifts import Draw, Scenario, shifted
from sidecar.demo.traffic import MODEL, Traffic
from sidecar.errors import SidecarError

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / ".tools" / "bin"
TEMPLATES = "/usr/share/prometheus/alertmanager"
MOVED = "usr/share/prometheus//alertmanager"
RATE = 150.0
PHASE_SECONDS = 60.0
POLL_SECONDS = 0.25
START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Ports:
    """One of each on loopback; the defaults are the usual ones."""

    grpc: int = 8001
    http: int = 8002
    prometheus: int = 9090
    alertmanager: int = 9093
    webhook: int = 9095


def free_ports() -> Ports:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(5)]
        return Ports(*(probe.getsockname()[1] for probe in probes))


def prometheus_config(text: str, ports: Ports) -> str:
    """The shipped configuration, for these ports and readable from another folder."""
    return (
        text.replace("rules/*.yml", f"{ROOT}/deploy/prometheus/rules/*.yml")
        .replace("127.0.0.1:9093", f"127.0.0.1:{ports.alertmanager}")
        .replace("127.0.0.1:8002", f"127.0.0.1:{ports.http}")
    )


def alertmanager_config(text: str, ports: Ports) -> str:
    return text.replace("127.0.0.1:9095", f"127.0.0.1:{ports.webhook}")


@contextlib.contextmanager
def receiver(port: int, say: Callable[[str], None]) -> Iterator[None]:
    """A webhook that says what Alertmanager sends it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()
            for alert in body["alerts"]:
                say(f"{alert['status']}: {alert['labels']['alertname']}: {alert['annotations']['summary']}")

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: what arrives is said above."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            web.shutdown()


@contextlib.asynccontextmanager
async def program(path: Path, url: str, folder: Path, *arguments: str) -> AsyncIterator[None]:
    """Run it in `folder` until the end of the block, which begins when `url` answers. Raises OSError if it does not."""
    log = folder / f"{path.name}.log"
    with log.open("wb") as file:
        # A session of its own: Ctrl-C shall reach this process first, which then stops all in order.
        process = await asyncio.create_subprocess_exec(
            path, *arguments, stdout=file, stderr=file, start_new_session=True, cwd=folder
        )
    try:
        async with asyncio.timeout(START_SECONDS):
            while process.returncode is None and not await asyncio.to_thread(_answers, url):
                await asyncio.sleep(POLL_SECONDS)
        if process.returncode is not None:
            raise OSError(f"{path.name} did not start:\n{log.read_text(errors='replace')[-2000:]}")
        yield
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def alertmanager(folder: Path) -> Path:
    """The program. Debian's reads templates in /usr/share; one that was only unpacked gets them in `folder`.

    Run it in `folder`: the path in the copy is relative, because it must keep its length.
    """
    installed, unpacked = PROGRAMS / "prometheus-alertmanager", PROGRAMS.parent / "root"
    if installed.resolve().is_relative_to(unpacked.resolve()) and not Path(TEMPLATES).exists():
        copy = folder / installed.name
        copy.write_bytes(installed.read_bytes().replace(TEMPLATES.encode(), MOVED.encode()))
        copy.chmod(0o755)
        shutil.copytree(unpacked / MOVED, folder / MOVED)
        return copy
    return installed


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


async def send(traffic: Traffic, status_url: str, say: Callable[[str], None]) -> None:
    """A reference from live traffic, then normal and noisy images in turns, for ever."""
    images = training.digits()

    def draw(scenario: Scenario) -> Draw:
        return shifted(scenario, images.test_images, images.test_labels)

    say("traffic: a reference is recorded")
    await _while(traffic.flood, draw(Scenario.NONE), "reference", end=_reference(status_url))
    for scenario in itertools.cycle((Scenario.NONE, Scenario.NOISE)):
        say(f"traffic: {'normal' if scenario is Scenario.NONE else scenario}, {PHASE_SECONDS:.0f} s")
        await _while(traffic.pace, draw(scenario), str(scenario), RATE, end=asyncio.sleep(PHASE_SECONDS))


async def _while(
    send: Callable[..., Coroutine[Any, Any, Any]], *arguments: object, end: Awaitable[None]
) -> None:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(send(*arguments, stop))
        await end
        stop.set()


async def _reference(status_url: str) -> None:
    def ready() -> bool:
        with urllib.request.urlopen(status_url, timeout=5) as reply:
            return bool(json.load(reply)["models"][0].get("reference_ready"))

    while not await asyncio.to_thread(ready):
        await asyncio.sleep(POLL_SECONDS)


async def run(ports: Ports, cache: Path, folder: Path, say: Callable[[str], None]) -> None:
    """All of it, until it is cancelled. Raises ModelError or OSError when a part does not start."""
    weights = await asyncio.to_thread(training.weights, cache / WEIGHTS, lambda _: None)
    config = {name: folder / name for name in ("sidecar.toml", "prometheus.yml", "alertmanager.yml")}
    shipped = ROOT / "deploy"
    for name, text in {
        "sidecar.toml": CONFIG.format(
            model=MODEL, weights=weights, grpc_port=ports.grpc, http_port=ports.http
        ),
        "prometheus.yml": prometheus_config((shipped / "prometheus/prometheus.yml").read_text(), ports),
        "alertmanager.yml": alertmanager_config(
            (shipped / "alertmanager/alertmanager.yml").read_text(), ports
        ),
    }.items():
        config[name].write_text(text)
    at = {name: f"127.0.0.1:{port}" for name, port in asdict(ports).items()}
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(receiver(ports.webhook, say))
        await stack.enter_async_context(server(config["sidecar.toml"]))
        for path, name, storage, extra in (
            (alertmanager(folder), "alertmanager", "--storage.path", ["--cluster.listen-address="]),
            (PROGRAMS / "prometheus", "prometheus", "--storage.tsdb.path", []),
        ):
            arguments = {
                "--config.file": config[f"{name}.yml"],
                "--web.listen-address": at[name],
                storage: folder / name,
            }
            command = [*(f"{option}={value}" for option, value in arguments.items()), *extra]
            await stack.enter_async_context(program(path, f"http://{at[name]}/-/ready", folder, *command))
        say(f"sidecar       http://{at['http']}  gRPC {at['grpc']}")
        say(f"Prometheus    http://{at['prometheus']}/alerts")
        say(f"Alertmanager  http://{at['alertmanager']}")
        say("Ctrl-C stops all of it")
        traffic = Traffic(at["grpc"], np.random.default_rng(0))
        stack.push_async_callback(traffic.close)
        await send(traffic, f"http://{at['http']}/api/v1/status", say)


async def main(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """0 when a signal ended it, 1 when a part did not start."""

    def say(line: str) -> None:
        print(line, flush=True)

    if missing := [
        name for name in ("prometheus", "prometheus-alertmanager") if not (PROGRAMS / name).exists()
    ]:
        print(f"stack: {' and '.join(missing)} are not in .tools/bin; see `make tools`", file=sys.stderr)
        return 1
    ports = free_ports() if arguments.free_ports else Ports()
    with tempfile.TemporaryDirectory(prefix="sidecar-stack-") as folder:
        running = asyncio.create_task(run(ports, cache_folder(environ), Path(folder), say))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        try:
            await running
        except asyncio.CancelledError:
            say("stopped")
        except (OSError, SidecarError) as error:
            print(f"stack: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--free-ports", action="store_true", help="any free ports instead of the usual ones")
    sys.exit(asyncio.run(main(parser.parse_args(), os.environ)))
