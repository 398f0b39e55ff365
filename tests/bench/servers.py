"""The servers of the comparison: each a process of its own, peers in virtual environments of their own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import grpc

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb import open_inference_pb2_grpc as pb_grpc

VENVS = Path("build/bench/venvs").absolute()
PEERS = Path(__file__).with_name("peers").absolute()
START_SECONDS = 120.0
MLSERVER, TRITON = "mlserver==1.7.1", "nvidia-pytriton==0.7.0"

OURS = """\
[[models]]
name = "mlp"
source = "tests.bench.peers.mlp:build"
threads = 1
taps = ["1", "2"]
inputs = [{{ name = "x", datatype = "FP32", shape = [-1, 512] }}]
outputs = [{{ name = "y", datatype = "FP32", shape = [-1, 512] }}]

[server]
grpc_port = {port}
http_port = 0

[drift]
reference_requests = 200

[capture]
{capture}
"""

MLSERVER_MODEL = '{"name": "mlp", "implementation": "mlserver_model.Mlp", "parameters": {"version": "1"}}'
MLSERVER_SETTINGS = (
    '{{"host": "127.0.0.1", "http_port": {http}, "grpc_port": {grpc}, "metrics_port": {metrics},'
    ' "parallel_workers": 0, "debug": false}}'
)

TRITON_CONFIG = """\
name: "mlp"
backend: "python"
max_batch_size: 32
input [ {{ name: "x", data_type: TYPE_FP32, dims: [512] }} ]
output [ {{ name: "y", data_type: TYPE_FP32, dims: [512] }} ]
instance_group [ {{ kind: KIND_CPU, count: 1 }} ]
{batching}
"""


class NoServerError(Exception):
    """Why a peer cannot take part on this machine."""


Start = Callable[[Path, int], tuple[Sequence[str | Path], Mapping[str, str]]]
"""Gets an empty folder and a free port; writes what the server reads, returns command line and environment."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs. pid: of the process whose descendants are all of it."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """User and system time of the process and all that descend from it, from /proc (see proc(5))."""
        ticks, pids = 0, [self.pid]
        while pids:
            pid = pids.pop()
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    pids += [int(child) for child in (task / "children").read_text().split()]
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def sidecar(capture: str) -> Start:
    def start(folder: Path, port: int) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        config = folder / "sidecar.toml"
        config.write_text(OURS.format(port=port, capture=capture))
        return [sys.executable, "-m", "sidecar.cli", "serve", "--config", config], {}

    return start


def bare(_folder: Path, port: int) -> tuple[Sequence[str | Path], Mapping[str, str]]:
    return [sys.executable, "-m", "tests.bench.peers.bare", str(port)], {}


def mlserver(folder: Path, port: int) -> tuple[Sequence[str | Path], Mapping[str, str]]:
    """One process: its workers, on by default, add a hop and are slower here."""
    packages = environment("mlserver", MLSERVER)
    settings = MLSERVER_SETTINGS.format(http=free_port(), grpc=port, metrics=free_port())
    (folder / "settings.json").write_text(settings)
    (folder / "model-settings.json").write_text(MLSERVER_MODEL)
    program = packages.parents[2] / "bin/mlserver"
    return [program, "start", folder], {
        "PYTHONPATH": str(PEERS),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
    }


def triton(batching: str) -> Start:
    """batching: lines of the model's configuration."""

    def start(folder: Path, port: int) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        packages = environment("triton", TRITON)
        home = packages / "pytriton/tritonserver"
        stub = home / f"python_backend_stubs/{sys.version_info.major}.{sys.version_info.minor}"
        backends = folder / "backends"
        shutil.copytree(home / "backends/python", backends / "python")
        if not (stub / "triton_python_backend_stub").exists():
            raise NoServerError(f"the wheel has no stub for this Python: {stub.name}")
        shutil.copy(stub / "triton_python_backend_stub", backends / "python")
        model = folder / "models/mlp"
        (model / "1").mkdir(parents=True)
        shutil.copy(PEERS / "triton_model.py", model / "1/model.py")
        shutil.copy(PEERS / "mlp.py", model / "1/mlp.py")
        (model / "config.pbtxt").write_text(TRITON_CONFIG.format(batching=batching))
        libraries = [home / "external_libs", home / "lib", stub, packages / "nvidia_pytriton.libs"]
        libraries.append(Path(sysconfig.get_config_var("LIBDIR")))
        command = [
            home / "bin/tritonserver", "--model-repository", model.parent, "--backend-directory", backends,
            "--grpc-port", str(port), "--grpc-address", "127.0.0.1",
            "--allow-http", "false", "--allow-metrics", "false",
        ]  # fmt: skip
        return command, {
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "PYTHONPATH": str(packages),
            "PATH": f"{packages.parents[2] / 'bin'}:{os.environ['PATH']}",
        }

    return start


@contextlib.contextmanager
def running(start: Start, folder: Path) -> Iterator[Server]:
    """The server from the moment that it is ready; what it prints goes to `folder`/log.

    Raises NoServerError when it cannot be installed or does not start.
    """
    port = free_port()
    command, environ = start(folder, port)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **ONE_THREAD, **environ},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_until_ready(port, process, folder / "log")
        yield Server(port, process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _wait_until_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, contextlib.suppress(grpc.RpcError):
            if (
                pb_grpc.GRPCInferenceServiceStub(channel)
                .ServerReady(pb.ServerReadyRequest(), timeout=1)
                .ready
            ):
                return
        time.sleep(0.2)
    raise NoServerError("it did not start: " + " | ".join(log.read_text().strip().splitlines()[-3:]))


def environment(name: str, requirement: str, *, torch: bool = True) -> Path:
    """site-packages of a virtual environment with `requirement`, and `torch`: the one that this environment has.

    Raises NoServerError when it cannot be installed.
    """
    home = VENVS / name
    packages = home / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    marker = home / ".complete"
    if not marker.exists():
        print(f"installing {requirement} into {home} ...", flush=True)
        # The same torch to the letter, its build included: no peer may compute faster, and none fetch CUDA.
        for command in (
            [sys.executable, "-m", "venv", "--clear", home],
            [
                home / "bin/python",
                "-m",
                "pip",
                "install",
                "--quiet",
                requirement,
                *([f"torch=={version('torch')}"] if torch else []),
            ],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or ["pip gave no reason"]
                raise NoServerError(f"{requirement} cannot be installed: {lines[-1]}")
        marker.touch()
    return packages


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
