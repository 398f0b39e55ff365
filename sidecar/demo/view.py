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
    head.add_row(*[Text(name, style="dim") for name in figures])
    head.add_row(*[Text(value, style="bold") for value in figures.values()])
    links = Table.grid(padding=(0, 3))
    for name, url in addresses.items():
        links.add_row(Text(name, style="dim"), Text(url, style="cyan"))
    return Panel(
        Group(Text(phase, style="bold"), Text(), head, Text(), links, Text(), layers(status)),
        title="activation sidecar",
    )


def layers(status: Mapping[str, Any]) -> Table:
    level = status.get("layer_alarm_level")
    caption = "" if level is None else f"a layer's alarm is at evidence {level:.1f}"
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    names = [f"{layer['layer']} {layer['site']}" for layer in status.get("layers", [])]
    table.add_column("layer", no_wrap=True, min_width=max(map(len, names), default=0))
    for name in ("requests", "zeros", "near zero", "absmax", "kurtosis", "evidence"):
        # What does not fit is cut off the last column, whose start says enough.
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    table.add_column("state", no_wrap=True)
    for name, layer in zip(names, status.get("layers", []), strict=True):
        table.add_row(
            name,
            f"{layer['requests']:,}",
            _share(layer["zero_share"]),
            _share(layer["near_zero_share"]),
            _plain(layer["absmax"]),
            _plain(layer["kurtosis"]),
            Text(f"{layer['evidence'] or 0:.1f}", style="red" if layer["active"] else ""),
            _state(status, layer),
        )
    return table


def _state(status: Mapping[str, Any], layer: Mapping[str, Any]) -> Text:
    if layer["nonfinite"]:
        return Text(f"{layer['nonfinite']:,} NaN or Inf", style="bold red")
    if layer["active"]:
        shift = layer["mean_shift"]
        moved = (
            f", {layer['shifted_statistic'].replace('_', ' ')} {shift:+.1f} sigma"
            if layer["shifted_statistic"]
            else ""
        )
        return Text(f"drift{moved}", style="bold red")
    if not status.get("reference_ready"):
        return Text("recording reference", style="yellow")
    return Text("ok", style="green")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
