"""`sidecar baseline ...` and `sidecar compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

baseline = typer.Typer(
    no_args_is_help=True, help="Record what a model's activations look like when all is well, and look at it."
)

_LEAST_WIDTH = 140
"""A table that a narrow terminal wraps still shows its numbers; one that is squeezed into it does not."""

File = Annotated[Path, typer.Argument(help="A baseline.")]


@baseline.command()
def show(file: File) -> None:
    """Print what is normal at each tap."""
    from sidecar.baseline import tables
    from sidecar.drift import Reference

    reference = Reference.load(file)
    console = _console()
    console.print(tables.summary(reference))
    console.print(tables.layers(reference))


@baseline.command(name="compare")
def compare_files(
    first: Annotated[Path, typer.Argument(help="The baseline to compare with.")],
    second: Annotated[Path, typer.Argument(help="The baseline that may differ.")],
) -> None:
    """List the layers of two baselines by how far the second is from the first."""
    from sidecar.baseline import tables
    from sidecar.drift import Reference
    from sidecar.drift.comparison import compare

    sides = Reference.load(first), Reference.load(second)
    console = _console()
    for name, side in zip("AB", sides, strict=True):
        console.print(f"{name}: {tables.summary(side)}")
    console.print(tables.differences(compare(*sides)))


@baseline.command()
def export(file: File, out: Annotated[Path, typer.Argument(help="JSON file to write.")]) -> None:
    """Write a baseline as JSON."""
    from sidecar.baseline.interchange import to_json
    from sidecar.drift import Reference
    from sidecar.errors import BaselineError

    text = to_json(Reference.load(file))
    try:
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise BaselineError(f"cannot write {out}: {error.strerror}") from error
    print(f"{out}: {len(text):,} bytes of JSON")


@baseline.command(name="import")
def take(
    file: Annotated[Path, typer.Argument(help="JSON file that `export` wrote.")],
    out: Annotated[Path, typer.Argument(help="Where the baseline is written.")],
) -> None:
    """Make a baseline of what `export` wrote."""
    from sidecar.baseline import tables
    from sidecar.baseline.interchange import from_json

    reference = from_json(file)
    reference.save(out)
    print(f"{out}: {tables.summary(reference)}")


def compare_replicas(
    first: Annotated[str, typer.Argument(help="HTTP address of a running sidecar, as http://host:8002.")],
    second: Annotated[str, typer.Argument(help="Of the one that may differ.")],
    model: Annotated[str | None, typer.Option(help="Name of the model; the first one by default.")] = None,
    version: Annotated[str | None, typer.Option(help="Its version, the first one by default.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the bearer token of both.")] = None,
) -> None:
    """List the layers of one model in two running sidecars by how far the second is from the first."""
    from sidecar.baseline import tables
    from sidecar.baseline.replicas import fetch
    from sidecar.drift.comparison import compare
    from sidecar.errors import ConfigError

    try:
        token = token_file.read_text(encoding="utf-8").strip() if token_file else None
    except OSError as error:
        raise ConfigError(f"cannot read {token_file}: {error.strerror}") from error
    sides = [fetch(url, model, version, token) for url in (first, second)]
    console = _console()
    for url, side in zip((first, second), sides, strict=True):
        console.print(f"{url}: {tables.summary(side)}")
    console.print(tables.differences(compare(*sides)))


def _console() -> Console:
    # Names in a baseline are somebody else's, and no markup.
    return Console(width=max(Console().width, _LEAST_WIDTH), markup=False)
