"""Draw the dashboards with what a Prometheus has, without a Grafana: `python grafana/render.py URL FOLDER`.

It shows what each panel's queries return, one SVG for each dashboard, in Grafana's grid; it does not look like Grafana.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from expressions import expand
from svg import Box, Lines, cells, lines, page, rows, tile

Json = dict[str, Any]

DASHBOARDS = Path(__file__).parent / "dashboards"
COLUMN, ROW = 50, 30
POINTS = 100


class Prometheus:
    """Answers for one stretch of time. begin, end: seconds since the epoch."""

    def __init__(self, base: str, begin: float, end: float) -> None:
        self._base, self._begin, self._end = base.rstrip("/"), begin, end

    def lines(self, panel: Json) -> Lines:
        """(name, points) of each series; points are (share of the time range, value) and leave out NaN."""
        found: Lines = []
        for target in panel["targets"]:
            span = {"start": self._begin, "end": self._end, "step": (self._end - self._begin) / POINTS}
            for series in self._ask("query_range", query=expand(target["expr"]), **span):
                points = [(self._share(at), float(value)) for at, value in series["values"]]
                known = [point for point in points if math.isfinite(point[1])]
                found.append((_named(target["legendFormat"], series["metric"]), known))
        return found

    def now(self, panel: Json) -> list[tuple[Json, float]]:
        """(labels and the query's name, value) of each series at the end."""
        return [
            ({**series["metric"], "": target["legendFormat"]}, float(series["value"][1]))
            for target in panel["targets"]
            for series in self._ask("query", query=expand(target["expr"]), time=self._end)
        ]

    def _share(self, at: float) -> float:
        return (at - self._begin) / (self._end - self._begin)

    def _ask(self, path: str, **parameters: object) -> list[Json]:
        url = f"{self._base}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as reply:
            result: list[Json] = json.load(reply)["data"]["result"]
        return result


def _named(legend: str, labels: Json) -> str:
    """The legend with labels filled in, and nothing for those that the series has not."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend).strip()


def drawn(panel: Json, prometheus: Prometheus) -> str:
    grid, title = panel["gridPos"], panel["title"]
    box = Box(grid["x"] * COLUMN, grid["y"] * ROW, grid["w"] * COLUMN, grid["h"] * ROW)
    if panel["type"] == "row":
        return box.heading(title)
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults["unit"]
    if panel["type"] == "stat":
        now = [value for _, value in prometheus.now(panel) if math.isfinite(value)]
        colour = [
            step["color"]
            for step in defaults["thresholds"]["steps"]
            if now and (step["value"] or -1e300) <= now[0]
        ]
        words = defaults.get("mappings", [{}])[0].get("options", {})
        return tile(box, title, now[0] if now else math.nan, unit, colour[-1] if colour else "grey", words)
    if panel["type"] == "table":
        return rows(box, title, prometheus.now(panel))
    series = prometheus.lines(panel)
    if panel["type"] == "heatmap":
        return cells(box, title, series, cumulative=panel["targets"][0]["format"] == "heatmap")
    levels = [
        (step["value"], step["color"])
        for step in defaults["thresholds"]["steps"]
        if step["value"] is not None
    ]
    return lines(box, title, series, unit, levels)


def main(arguments: argparse.Namespace, now: float) -> int:
    prometheus = Prometheus(arguments.url, now - 60 * arguments.minutes, now)
    for path in sorted(DASHBOARDS.glob("*.json")):
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        panels = dashboard["panels"]
        height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
        parts = [drawn(panel, prometheus) for panel in panels]
        target = arguments.folder / f"{path.stem}.svg"
        target.write_text(page(dashboard["title"], 24 * COLUMN, height * ROW, parts), encoding="utf-8")
        print(target)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of a Prometheus that scrapes a sidecar and has deploy/prometheus/rules")
    parser.add_argument("folder", type=Path, help="where the pictures are written")
    parser.add_argument("--minutes", type=float, default=10.0, help="how far back")
    sys.exit(main(parser.parse_args(), time.time()))
