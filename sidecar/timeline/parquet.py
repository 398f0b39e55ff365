"""Panes as Parquet, for DuckDB, Spark, Ray or pandas; docs/store.md lists the columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from sidecar.errors import ConfigError, StoreError
from sidecar.sketch import TapSketch
from sidecar.sketch.counts import Counts
from sidecar.sketch.histogram import bounds
from sidecar.timeline.history import Kept, Recall
from sidecar.timeline.levels import columns
from sidecar.timeline.schema import reading
from sidecar.timeline.statistics import STATISTICS
from sidecar.types import Tap

_EVERY = 10**9
# Rows in memory, and in one row group of the file.
_ROWS = 256


def export(path: Path, begin: float | None, end: float | None, out: Path, *, channels: bool) -> int:
    """Write the panes that touch [begin, end), seconds since the epoch, as finely as they are kept, and all steps.

    One row for each tap of a pane; with `channels` it has a list for each statistic of its channels. Answers the
    number of rows. Raises ConfigError without pyarrow or where `out` cannot be written, StoreError for a store that
    cannot be read, SketchError for one that is damaged.
    """
    try:
        import pyarrow
        from pyarrow.parquet import ParquetWriter
    except ModuleNotFoundError as error:
        needs = "pip install 'activation-sidecar[parquet]'"
        raise ConfigError(f"the export needs {error.name}: {needs}") from error
    if not path.is_file():
        raise StoreError(f"there is no store {path}")
    kinds = {
        "text": pyarrow.string(),
        "whole": pyarrow.int64(),
        "number": pyarrow.float64(),
        "wholes": pyarrow.list_(pyarrow.int64()),
        "numbers": pyarrow.list_(pyarrow.float32()),
    }
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in column_kinds(channels=channels).items()])
    written = 0
    waiting: list[dict[str, Any]] = []
    try:
        with reading(path) as connection, ParquetWriter(out, schema, compression="zstd") as file:
            for row in _rows(Recall(connection, {}), begin, end, channels=channels):
                waiting.append(row)
                if len(waiting) == _ROWS:
                    file.write_table(pyarrow.Table.from_pylist(waiting, schema))
                    waiting.clear()
                written += 1
            file.write_table(pyarrow.Table.from_pylist(waiting, schema))
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from error
    return written


def column_kinds(*, channels: bool) -> dict[str, str]:
    """Column -> `text`, `whole` number, `number`, or a list of either."""
    kinds = dict.fromkeys(("model", "version", "site", "module"), "text")
    kinds |= {"layer": "whole", "channels": "whole", "start": "number", "seconds": "number", "step": "whole"}
    kinds |= {field.name: "whole" for field in fields(Counts)}
    kinds |= {name: "number" for name in STATISTICS if name not in kinds}
    kinds |= {"histogram_lower": "numbers", "histogram_upper": "numbers", "histogram_count": "wholes"}
    if channels:
        kinds |= dict.fromkeys(("channel_mean", "channel_rms", "channel_absmax"), "numbers")
        kinds |= dict.fromkeys(("channel_fires", "channel_outliers"), "wholes")
    return kinds


def _rows(
    recall: Recall, begin: float | None, end: float | None, *, channels: bool
) -> Iterator[dict[str, Any]]:
    first, last = -math.inf if begin is None else begin, math.inf if end is None else end
    for model, version in dict.fromkeys((one.model, one.version) for one in recall.subjects()):
        panes = columns(recall.panes(model, version, first, last), first, last, _EVERY)
        for pane in (*panes, *recall.steps(model, version)):
            for place, tap in enumerate(pane.subject.taps):
                for _, sketch in recall.sketches([pane], tap):
                    row = _whose(pane, tap) | asdict(sketch.counts) | _values(sketch)
                    row["evidence"] = float(recall.values([pane], pane.subject.taps, "evidence")[place, 0])
                    yield row | _histogram(sketch) | (_channels(sketch) if channels else {})


def _whose(pane: Kept, tap: Tap) -> dict[str, Any]:
    timed = pane.span > 0
    return {
        "model": pane.subject.model,
        "version": pane.subject.version,
        "layer": tap.layer,
        "site": tap.site,
        "module": tap.module,
        "channels": tap.channels,
        "start": pane.start if timed else None,
        "seconds": pane.span if timed else None,
        "step": None if timed else int(pane.start),
    }


def _values(sketch: TapSketch) -> dict[str, float]:
    counted = {field.name for field in fields(Counts)}
    return {name: one.of(sketch) for name, one in STATISTICS.items() if one.of and name not in counted}


def _histogram(sketch: TapSketch) -> dict[str, Any]:
    """Its cells that are not empty, from the most negative to the most positive."""
    signed = sketch.histogram.signed()
    lower, upper = bounds()
    filled = np.flatnonzero(signed)
    return {
        "histogram_lower": lower[filled].astype(np.float32),
        "histogram_upper": upper[filled].astype(np.float32),
        "histogram_count": signed[filled],
    }


def _channels(sketch: TapSketch) -> dict[str, Any]:
    channels = sketch.channels
    return {
        "channel_mean": channels.mean.astype(np.float32),
        "channel_rms": sketch.channels.rms.astype(np.float32),
        "channel_absmax": channels.absmax.astype(np.float32),
        "channel_fires": channels.fires,
        "channel_outliers": channels.outliers,
    }
