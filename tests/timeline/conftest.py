"""Panes of two small taps, and a store for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sidecar.sketch import TapSketch
from sidecar.timeline import Pane, Retention, Store, Subject
from sidecar.types import Tap

PAIR = (Tap(0, "resid", "blocks.0", 5), Tap(1, "resid", "blocks.1", 3))
SUBJECT = Subject("digits", "1", PAIR)
RETENTION = Retention(10.0, 7.0, 100.0)
START = 1_000_000_800.0


def seen(number: float, channels: int, requests: int = 25) -> TapSketch:
    """What `requests` requests of one position gave; panes of different numbers have different means."""
    rng = np.random.default_rng(int(number) % 2**32)
    x = rng.normal(number % 7 - 3, 1 + number % 3, (requests, channels)).astype(np.float32)
    return TapSketch.from_array(x, 2.0**-10, requests)


def make_pane(start: float, span: float = 10.0, requests: int = 25) -> Pane:
    return Pane(start, span, {tap: seen(start + tap.layer, tap.channels, requests) for tap in PAIR})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "panes.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store(path, RETENTION)
    yield opened
    opened.close()
