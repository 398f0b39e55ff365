"""The command line: serve, demo, taps, check, evaluate, export, report, baseline, compare."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sidecar import log
from sidecar import settings as configuration
from sidecar.baseline.commands import baseline, compare_replicas
from sidecar.configured import Configured
from sidecar.demo.shifts import Scenario
from sidecar.errors import ConfigError, SidecarError
from sidecar.server import core
from sidecar.settings import ModelSettings, Settings

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="See what happens inside the model that you serve."
)
app.add_typer(baseline, name="baseline")
app.command(name="compare")(compare_replicas)

Config = Annotated[
    Path, typer.Option("--config", help="TOML file of settings; SIDECAR_* variables lie over it.")
]
SomeConfig = Annotated[
    Path | None, typer.Option("--config", help="TOML file of settings; not needed with --repository.")
]
Repository = Annotated[
    Path | None,
    typer.Option("--repository", help="Folder of models: <model>/<version>/model.onnx and the like."),
]
ModelName = Annotated[
    str | None, typer.Option("--model", help="Name of the model; the first one by default.")
]


def _load(path: Path | None, repository: Path | None = None) -> Settings:
    """Settings, with the file's folder on the import path so that `source` may stand beside it.

    repository: a folder of models, instead of the one that the file or the environment names.
    """
    environ = dict(os.environ)
    if repository is not None:
        environ["SIDECAR_REPOSITORY__PATH"] = str(repository.absolute())
    loaded = configuration.load(path, environ) if path else configuration.resolve({}, environ, base=Path())
    log.configure(loaded.log, sys.stderr)
    folders = [path.resolve().parent] if path else []
    if loaded.repository.path and loaded.repository.trust:
        folders.append(loaded.repository.path)
    sys.path.extend(map(str, folders))
    return loaded


def _model(loaded: Settings, name: str | None) -> ModelSettings:
    models = Configured(loaded).everything()
    for model in models:
        if name in (None, model.name):
            return model
    known = ", ".join(model.name for model in models)
    raise typer.BadParameter(f"no model {name!r} is configured; there are {known}", param_hint="--model")


@app.command()
def serve(
    config: SomeConfig = None,
    repository: Repository = None,
    store: Annotated[
        str | None,
        typer.Option(help="File that keeps what was seen, in place of store.path; none keeps nothing."),
    ] = None,
) -> None:
    """Serve the configured models until SIGTERM or SIGINT."""
    core.set_up(os.environ)
    import uvloop

    from sidecar.app import Sidecar

    # What the libraries made stays for good, and a full collection, which holds up every request, need not look at it.
    gc.freeze()
    loaded = _load(config, repository)
    if store is not None:
        kept = loaded.store.model_copy(update={"path": "" if store == "none" else store})
        loaded = loaded.model_copy(update={"store": kept})
    sidecar = Sidecar(loaded, time.time)

    async def run() -> None:
        leave, stop = asyncio.Event(), asyncio.Event()
        loop, server = asyncio.get_running_loop(), loaded.server

        def terminate() -> None:
            leave.set()
            loop.call_later(server.shutdown_delay_seconds, stop.set)

        def interrupt() -> None:
            leave.set()
            stop.set()

        loop.add_signal_handler(signal.SIGTERM, terminate)
        loop.add_signal_handler(signal.SIGINT, interrupt)
        await sidecar.start()
        # One line on standard output, for people and for scripts that chose port 0.
        host = server.grpc_host
        print(
            f"sidecar ready: gRPC {host if host.startswith('unix:') else f'{host}:{sidecar.grpc_port}'}, "
            f"HTTP {server.http_host}:{sidecar.http_port}",
            flush=True,
        )
        await leave.wait()
        await sidecar.leave()
        await stop.wait()
        await sidecar.stop()

    # A small request takes about a tenth less CPU than on asyncio's own loop.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@app.command()
def demo(
    seconds: Annotated[
        float | None, typer.Option(min=15, help="Length of the traffic; until Ctrl-C without it.")
    ] = None,
    rate: Annotated[float, typer.Option(min=1, max=2000, help="Requests a second.")] = 200,
    scenario: Annotated[Scenario, typer.Option(help="What goes wrong.")] = Scenario.NOISE,
    report: Annotated[Path | None, typer.Option(help="Write the outcome here, as JSON.")] = None,
) -> None:
    """Train a small model, serve it, send it traffic and let the traffic go wrong."""
    try:
        from sidecar.demo.run import Demo, cache_folder
    except ModuleNotFoundError as error:
        raise ConfigError(f"the demo needs {error.name}: pip install 'activation-sidecar[demo]'") from error

    outcome = asyncio.run(Demo(cache_folder(os.environ), Console(), scenario, seconds, rate).run())
    if report:
        report.write_text(json.dumps(outcome, indent=2) + "\n", encoding="utf-8")


@app.command()
def taps(config: Config, model: ModelName = None) -> None:
    """List where a model can be tapped, the activations there, and what a tap on each would cost."""
    from sidecar import costs

    loaded = _load(config)
    chosen = costs.modules(_model(loaded, model), loaded.capture)
    table = Table(box=None, header_style="dim")
    for name in ("tap", "module", "shape of one request", "us a request", "share of inference"):
        table.add_column(name, justify="right" if name.startswith(("us", "share")) else "left")
    for row in chosen:
        cost = f"{row.seconds * 1e6:.1f}", f"{row.share:.2%}"
        table.add_row("*" if row.chosen else "", row.module, str(list(row.shape)), *cost)
    Console().print(table)


@app.command()
def check(config: SomeConfig = None, repository: Repository = None) -> None:
    """Validate the settings, load every model, run it once, and say what each tap will cost."""
    from sidecar import costs
    from sidecar.model import Model

    loaded = _load(config, repository)
    console = Console(soft_wrap=True)
    for settings in Configured(loaded).everything():
        model = Model(settings, loaded, time.time)
        observation = model.observation
        console.print(
            f"{settings.name} version {settings.version}: loaded, ran, {model.detail or 'self-check passed'}"
        )
        if observation is None:
            continue
        rows = {row.module: row for row in costs.modules(settings, loaded.capture) if row.chosen}
        for tap in observation.taps:
            row = rows[tap.module]
            console.print(
                f"  {tap.key:>12}  {tap.module}  {list(row.shape)}  {row.seconds * 1e6:.1f} us a request, "
                f"{row.share * loaded.capture.sample_rate:.2%} of inference at sample_rate {loaded.capture.sample_rate}"
            )
        console.print(f"  state: {observation.recorder.memory() / 2**20:.1f} MiB on {settings.device}")


@app.command()
def evaluate(
    config: Config,
    checkpoints: Annotated[
        Path, typer.Option(help="Folder of safetensors files with the training step in their names.")
    ],
    inputs: Annotated[Path, typer.Option(help="npz file: one array an input, one row a request.")],
    model: ModelName = None,
    store: Annotated[Path | None, typer.Option(help="Where the panes go, in place of store.path.")] = None,
) -> None:
    """Run the same inputs through each checkpoint and keep what its activations looked like, by training step."""
    from sidecar.evaluate import evaluate_checkpoints, find_checkpoints

    loaded = _load(config)
    found = find_checkpoints(checkpoints)
    evaluated = evaluate_checkpoints(
        _model(loaded, model), loaded, found, inputs, _store_path(loaded, store), time.time
    )
    steps = list(track(evaluated, "checkpoints", total=len(found), console=Console(stderr=True)))
    print(f"{_store_path(loaded, store)}: {len(steps)} steps, {min(steps)} to {max(steps)}")


@app.command()
def export(
    config: Config,
    out: Annotated[Path, typer.Option(help="Where the Parquet file is written.")],
    begin: Annotated[
        datetime | None, typer.Option("--from", help="First moment, UTC; the oldest pane by default.")
    ] = None,
    end: Annotated[
        datetime | None, typer.Option("--to", help="Moment behind the last, UTC; now by default.")
    ] = None,
    channels: Annotated[bool, typer.Option(help="Lists of the channels' statistics, too.")] = False,
    store: Annotated[Path | None, typer.Option(help="Which store, in place of store.path.")] = None,
) -> None:
    """Write what the store has of a range of time as Parquet, for DuckDB, Spark or Ray."""
    from sidecar.timeline import parquet

    loaded = _load(config)
    lowest, highest = (None if at is None else at.replace(tzinfo=UTC).timestamp() for at in (begin, end))
    written = parquet.export(_store_path(loaded, store), lowest, highest, out, channels=channels)
    print(f"{out}: {written} rows")


@app.command()
def report(
    config: Config,
    out: Annotated[Path, typer.Option(help="Where the HTML file is written.")],
    begin: Annotated[
        datetime | None, typer.Option("--from", help="First moment, UTC; the oldest pane by default.")
    ] = None,
    end: Annotated[
        datetime | None, typer.Option("--to", help="Moment behind the last, UTC; the newest pane by default.")
    ] = None,
    step: Annotated[
        int | None, typer.Option(min=0, help="Training step, in place of a range of time.")
    ] = None,
    model: Annotated[str, typer.Option(help="Name of the model; the first one kept by default.")] = "",
    version: Annotated[str, typer.Option(help="Its version; the first one kept by default.")] = "",
    store: Annotated[Path | None, typer.Option(help="Which store, in place of store.path.")] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for PNGs of the views, which takes a Chromium on the path.")
    ] = None,
) -> None:
    """Write what the store has of a range as one HTML file that needs no server: the page with its answers in it."""
    from sidecar import reports
    from sidecar.configured import Configured
    from sidecar.console.hindsight import Hindsight
    from sidecar.console.report import Reported

    loaded = _load(config)
    lowest, highest = (None if at is None else at.replace(tzinfo=UTC).timestamp() for at in (begin, end))
    reported = Reported(model, version, lowest, highest, step)
    baselines = {(one.name, one.version): one.baseline for one in Configured(loaded).everything()}
    hindsight = Hindsight(loaded.drift, lambda *which: baselines.get(which))
    reports.write(_store_path(loaded, store), loaded.console, hindsight, reported, out, time.time)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
    if pictures:
        for picture in reports.photograph(out, pictures, os.environ["PATH"]):
            print(picture)


def _store_path(loaded: Settings, given: Path | None) -> Path:
    if given is None and not loaded.store.path:
        raise ConfigError("store.path is empty and no --store was given; one of them must name the file")
    return given or Path(loaded.store.path)


@baseline.command()
def record(
    config: Config,
    requests: Annotated[Path, typer.Option(help="npz file: one array an input, one row a request.")],
    out: Annotated[Path, typer.Option(help="Where the baseline is written.")],
    model: ModelName = None,
) -> None:
    """Run a file of requests through a model and keep what its activations looked like."""
    from sidecar.baseline.recording import record_baseline

    loaded = _load(config)
    reference = record_baseline(_model(loaded, model), loaded, requests, time.time)
    reference.save(out)
    print(f"{out}: {reference.requests} requests, {len(reference.taps)} taps")


def main() -> None:
    try:
        app()
    except SidecarError as error:
        print(f"sidecar: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
