"""Charts as SVG: lines over time, cells over time, one number, a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

Lines = list[tuple[str, list[tuple[float, float]]]]
"""(name, points) of each series; a point is (share of the time range, value)."""

PALETTE = (
    "#3366cc",
    "#dc7633",
    "#2e9e5b",
    "#b03a48",
    "#7d5ba6",
    "#8c6d31",
    "#d07ab8",
    "#5f6a6a",
    "#a3a500",
    "#16a2b8",
)
TILES = {"green": "#b8dfb9", "orange": "#f5cd93", "red": "#eda5a0", "grey": "#dddddd"}
LEFT, TOP, BOTTOM = 52, 24, 34
NAMES_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Box:
    """Where a panel is, in pixels."""

    x: int
    y: int
    width: int
    height: int

    def heading(self, text: str) -> str:
        return _text(self.x + 8, self.y + 20, text, size=15, weight="bold")

    def frame(self, title: str, content: str) -> str:
        edge = f'<rect width="{self.width - 6}" height="{self.height - 6}" fill="white" stroke="#cccccc"/>'
        named = _text(8, 16, title, weight="bold")
        return f'<g transform="translate({self.x + 3},{self.y + 3})">{edge}{named}{content}</g>'

    @property
    def plot(self) -> tuple[int, int]:
        """Width and height of the area inside the axes."""
        return self.width - LEFT - 18, self.height - TOP - BOTTOM


def page(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + 36}" font-family="sans-serif">'
    body = f'<rect width="100%" height="100%" fill="#f4f4f4"/>{_text(8, 24, title, size=18, weight="bold")}'
    return f'{head}\n{body}<g transform="translate(0,36)">\n' + "\n".join(parts) + "\n</g></svg>\n"


def lines(box: Box, title: str, series: Lines, unit: str, levels: Sequence[tuple[float, str]]) -> str:
    """levels: (value, colour) of dashed lines, drawn where they lie within the chart."""
    values = [value for _, points in series for _, value in points]
    if not values:
        return box.frame(title, _text(box.width // 2 - 30, box.height // 2, "no values", colour="#999999"))
    low, high = min(values), max(values)
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    low, high = low - margin, high + margin
    width, height = box.plot

    def at(share: float, value: float) -> str:
        return f"{share * width:.1f},{(high - value) / (high - low) * height:.1f}"

    drawn = [
        f'<polyline points="{at(0, level)} {at(1, level)}" stroke="{colour}" stroke-dasharray="4" fill="none"/>'
        for level, colour in levels
        if low <= level <= high
    ]
    for number, (_, points) in enumerate(series):
        path = " ".join(at(share, value) for share, value in points)
        drawn.append(f'<polyline points="{path}" stroke="{_colour(number)}" fill="none" stroke-width="1.2"/>')
    ends = "".join(
        _text(-4, 4 + height * (high - value) / (high - low), spelled(value, unit), size=9, anchor="end")
        for value in (high - margin, (low + high) / 2, low + margin)
    )
    return box.frame(title, f"{_inside(''.join(drawn), width, height)}{_at_axes(ends)}{_legend(box, series)}")


def cells(box: Box, title: str, series: Lines, *, cumulative: bool) -> str:
    """A row of cells for each series, by the number that is its name. cumulative: each holds those below it."""
    ordered = sorted((float(name), dict(points)) for name, points in series if points)
    if cumulative:
        before: list[dict[float, float]] = [{}, *(points for _, points in ordered)]
        ordered = [
            (name, {share: max(value - less.get(share, 0.0), 0.0) for share, value in points.items()})
            for (name, points), less in zip(ordered, before, strict=False)
        ]
    shares = sorted({share for _, points in ordered for share in points})
    values = [value for _, points in ordered for value in points.values()]
    width, height = box.plot
    if not values:
        return box.frame(title, _text(box.width // 2 - 30, box.height // 2, "no values", colour="#999999"))
    low, high = min(*values, 0.0), max(values)
    tall = height / len(ordered)
    step = min((later - share for share, later in pairwise(shares)), default=1.0)
    drawn = []
    for number, (_, points) in enumerate(ordered):
        place = f'y="{height - tall * (number + 1):.1f}" height="{tall + 0.3:.1f}"'
        fills = [
            (share, _heat((value - low) / (high - low) if high > low else 0.0))
            for share, value in points.items()
        ]
        # Neighbours of one colour make one cell: a picture of a thousand cells is slow.
        for fill, group in groupby(fills, key=itemgetter(1)):
            along = [share for share, _ in group]
            begin, end = along[0] * width, min(along[-1] + step, 1.0) * width
            drawn.append(f'<rect x="{begin:.1f}" width="{end - begin + 0.3:.1f}" {place} fill="{fill}"/>')
    every = max(1, len(ordered) // 8)
    names = "".join(
        _text(-4, height - tall * (number + 0.5) + 3, f"{name:g}", size=9, anchor="end")
        for number, (name, _) in enumerate(ordered)
        if number % every == 0
    )
    scale = _text(0, height + 16, f"pale {spelled(low, 'short')}, dark {spelled(high, 'short')}", size=10)
    return box.frame(title, f"{_inside(''.join(drawn), width, height)}{_at_axes(names + scale)}")


def tile(box: Box, title: str, value: float, unit: str, colour: str, words: Mapping[str, Any]) -> str:
    known = words.get(f"{value:g}", {}).get("text") if math.isfinite(value) else "no value"
    back = f'<rect y="22" width="{box.width - 6}" height="{box.height - 28}" fill="{TILES.get(colour, colour)}"/>'
    return box.frame(
        title,
        back
        + _text(
            box.width // 2, box.height // 2 + 18, known or spelled(value, unit), size=22, anchor="middle"
        ),
    )


def rows(box: Box, title: str, values: Sequence[tuple[Mapping[str, str], float]]) -> str:
    """A line of text for each set of labels, with all values that bear it."""
    table: dict[str, dict[str, str]] = {}
    for labels, value in values:
        named = " ".join(f"{label} {text}" for label, text in labels.items() if label)
        table.setdefault(named, {})[labels[""]] = spelled(value, "short")
    texts = [
        f"{name}:  " + ",  ".join(f"{column} {text}" for column, text in columns.items())
        for name, columns in table.items()
    ]
    return box.frame(
        title, "".join(_text(12, 42 + 18 * number, text) for number, text in enumerate(texts[:12]))
    )


def spelled(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    if unit == "bytes":
        return f"{value / 2**20:.4g} MiB"
    return f"{value:.4g}{' s' if unit == 's' else ''}"


def _legend(box: Box, series: Lines) -> str:
    names = [name for name, _ in series]
    shown = names[:NAMES_SHOWN] + (
        [f"and {len(names) - NAMES_SHOWN} more"] if len(names) > NAMES_SHOWN else []
    )
    space = (box.width - 24) / max(len(shown), 3)
    fits = int(space / 6.5)
    return "".join(
        _text(12 + space * number, box.height - 14, name[-fits:], size=9, colour=_colour(number))
        for number, name in enumerate(shown)
    )


def _inside(content: str, width: int, height: int) -> str:
    axes = f'<path d="M0,0 V{height} H{width}" stroke="#999999" fill="none"/>'
    return f'<g transform="translate({LEFT},{TOP})">{content}{axes}</g>'


def _at_axes(content: str) -> str:
    return f'<g transform="translate({LEFT},{TOP})">{content}</g>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 11,
    weight: str = "normal",
    colour: str = "#333333",
    anchor: str = "start",
) -> str:
    style = f'font-size="{size}" font-weight="{weight}" fill="{colour}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _colour(number: int) -> str:
    return PALETTE[number % len(PALETTE)]


def _heat(share: float) -> str:
    """From pale yellow at 0 to dark red at 1."""
    pale, dark = (255, 247, 220), (150, 10, 40)
    red, green, blue = (round(one + (other - one) * share) for one, other in zip(pale, dark, strict=True))
    return f"#{red:02x}{green:02x}{blue:02x}"
