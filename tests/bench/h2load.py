"""The load generator: h2load replays one gRPC message over one connection, at little cost of its own."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tools.fetch import FetchError, runs, unpack

PACKAGES = ("nghttp2-client", "libnghttp2-14", "libev4", "libjansson4", "libjemalloc2")
FOLDER = Path("build/bench/h2load")
METHOD = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients saw of one server. latencies_ms: of every request. client_seconds: CPU time of h2load."""

    per_second: float
    latencies_ms: np.ndarray
    client_seconds: float


def program() -> tuple[str, dict[str, str]]:
    """h2load and the environment it needs: from PATH, or from Debian's packages without installing them.

    Ends the benchmark where neither is to be had.
    """
    if found := shutil.which("h2load"):
        return found, dict(os.environ)
    unpacked, libraries = FOLDER / "root/usr/bin/h2load", FOLDER / "root/usr/lib/x86_64-linux-gnu"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    if not unpacked.exists():
        try:
            unpack(FOLDER, os.environ["PATH"], PACKAGES)
        except FetchError as error:
            sys.exit(f"the load generator h2load is missing (Debian: nghttp2-client): {error}")
    if not runs(unpacked, environment):
        sys.exit(f"{unpacked} does not start on this machine; install h2load (Debian: nghttp2-client)")
    return str(unpacked), environment


def run(
    generator: tuple[str, dict[str, str]],
    port: int,
    message: bytes,
    *,
    concurrent: int,
    seconds: float,
    reply: int,
) -> Load:
    """Keep `concurrent` requests in flight for `seconds`. Raises RuntimeError unless all brought `reply` bytes."""
    path, environment = generator
    with TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(b"\0" + len(message).to_bytes(4) + message)
        before = os.times()
        done = subprocess.run(
            [
                path, "-c", "1", "-m", str(concurrent), "-D", f"{seconds * 1000:.0f}ms",
                "-d", body, "-H", "content-type: application/grpc", "-H", "te: trailers",
                "--log-file", log, f"http://127.0.0.1:{port}{METHOD}",
            ],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        after = os.times()
        log_lines = np.loadtxt(log, dtype=np.int64, ndmin=2)
    text = done.stdout
    count = _number(r"(\d+) done", text)
    if _number(r"(\d+) succeeded", text) != count or _number(r"\((\d+)\) data", text) < count * reply:
        raise RuntimeError(f"not every request was answered:\n{text}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Load(count / seconds, log_lines[:, 2] / 1000, cpu)


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"h2load did not say how it went:\n{text}")
    return int(found[1])
