"""The demo's live terminal view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text


def screen(
    phase: str, figures: Mapping[str, str], addresses: Mapping[str, str], status: Mapping[str, Any]
) -> RenderableType:
    """phase: what is going on, in words. status: a model of `/api/v1/status`; may be empty before the first poll."""
    head = Table.grid(padding=(0, 3))
    for _ in figures:
        head.add_column()
    head.add_row(*[Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in figures.items()])
    links = Text("   ").join(
        Text.assemble((f"{name} ", "dim"), (url, "cyan")) for name, url in addresses.items()
    )
    return Panel(
        Group(Text(phase, style="bold"), head, links, Text(), layers(status)), title="activation sidecar"
    )


def layers(status: Mapping[str, Any]) -> Table:
    table = Table(box=None, header_style="dim", expand=True)
    table.add_column("layer")
    for name in ("requests", "zeros", "near zero", "absmax", "kurtosis", "evidence"):
        table.add_column(name, justify="right")
    table.add_column("state")
    level = status.get("layer_alarm_level", 0.0)
    for layer in status.get("layers", []):
        table.add_row(
            f"{layer['layer']} {layer['site']}",
            f"{layer['requests']:,}",
            _share(layer["zero_share"]),
            _share(layer["near_zero_share"]),
            _plain(layer["absmax"]),
            _plain(layer["kurtosis"]),
            Text(f"{layer['evidence'] or 0:.1f} / {level:.1f}", style="red" if layer["active"] else ""),
            _state(status, layer),
        )
    return table


def _state(status: Mapping[str, Any], layer: Mapping[str, Any]) -> Text:
    if layer["nonfinite"]:
        return Text(f"{layer['nonfinite']:,} NaN or Inf", style="bold red")
    if layer["active"]:
        shift = layer["mean_shift"]
        return Text("drifting" + (f" ({shift:+.1f} sigma)" if shift is not None else ""), style="bold red")
    if not status.get("reference_ready"):
        return Text("recording reference", style="yellow")
    return Text("ok", style="green")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
