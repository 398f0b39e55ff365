"""A store of known panes, and the API over it."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from sidecar.console.api import Api, Sources
from sidecar.console.elsewhere import Elsewhere
from sidecar.drift.nodrift import NoDrift
from sidecar.drift.snapshot import snapshot
from sidecar.settings import ConsoleSettings
from sidecar.sketch import Reading, RequestRows, TapSketch
from sidecar.timeline import History, Pane, Retention, Store, Subject, Timeline
from sidecar.types import Tap

CHANNELS = 64
TAPS = (Tap(0, "resid", "blocks.0", CHANNELS), Tap(1, "resid", "<img onerror=x>", CHANNELS))
SUBJECT = Subject("digits", "1", TAPS)
START = 1_000_800.0
NOW = START + 60
SPIKES = {7: 30.0, 40: -22.0}
FREE = ConsoleSettings(budget=64.0)


def elsewhere(settings=FREE, fetch=None, clock=lambda: 0.0):
    """What the settings name; fetch: of a replica."""
    return Elsewhere(settings, fetch, clock)


STEPS = (10_000, 20_000, 30_000)


def values(start, layer, requests=25):
    """Channel 3 never fires, 5 always does, 7 and 40 are spikes, 9 is massive."""
    rng = np.random.default_rng(int(start) + layer)
    x = rng.standard_normal((requests, CHANNELS)).astype(np.float32) * (1 + layer)
    for channel, height in SPIKES.items():
        x[:, channel] += height
    x[:, 3] = 0
    x[:, 5] = 5
    x[:, 9] = 0
    x[0, 9] = 3000.0
    return x


def pane(start, span=10.0, requests=25):
    sketches = {
        tap: TapSketch.from_array(values(start, tap.layer, requests), 2.0**-10, requests) for tap in TAPS
    }
    return Pane(start, span, sketches)


def recorded(version="1", shift=0.0, requests=25):
    """The first kept pane as a reference, its values moved by `shift`."""
    timeline = Timeline(TAPS, 10.0, 6, lambda: NOW)
    sketches = {
        tap: TapSketch.from_array(values(START, tap.layer, requests) + np.float32(shift), 2.0**-10, requests)
        for tap in TAPS
    }
    timeline.add(Reading(NOW, sketches, dict.fromkeys(TAPS, RequestRows(np.zeros((requests, 6)))), requests))
    return snapshot("digits", version, TAPS, timeline, 60.0, [NoDrift.unknown()] * len(TAPS), "")


def whole(layer, starts=tuple(START + 10 * i for i in range(6))):
    return np.concatenate([values(start, layer) for start in starts])


@pytest.fixture(scope="session")
def kept_panes(tmp_path_factory):
    path = tmp_path_factory.mktemp("api") / "panes.db"
    store = Store(path, Retention(10.0, 7.0, 100.0))
    for i in range(6):
        given = {"evidence": np.array([i, 10 * i], dtype=np.float64)}
        store.write(SUBJECT, pane(START + 10 * i), given, NOW)
    for place, step in enumerate(STEPS):
        store.write(SUBJECT, pane(step, span=0.0, requests=25 + place), {}, NOW)
    other = Subject("digits", "2", TAPS)
    store.write(other, pane(START + 20), {}, NOW)
    few = Subject("rare", "1", TAPS)
    store.write(few, pane(START, requests=3), {}, NOW)
    store.close()
    return path


@pytest.fixture
def questioned(kept_panes):
    @asynccontextmanager
    async def questioned(*watched, settings=FREE, fetch=None, clock=lambda: 0.0):
        named = elsewhere(settings, fetch, clock)
        api = Api(Sources(History(kept_panes, dict), watched, None, named), settings, lambda: NOW, clock)
        transport = httpx.ASGITransport(app=Starlette(routes=api.routes()))
        async with httpx.AsyncClient(transport=transport, base_url="http://sidecar/api/v1/") as http:
            yield http
        api.close()

    return questioned


def refuse_constant(name):
    raise AssertionError(f"{name} is not JSON")


@pytest.fixture
def ask(questioned):
    """The answer to one question, as JSON."""

    async def ask(method, *watched, settings=FREE, **given):
        async with questioned(*watched, settings=settings) as http:
            reply = await http.get(method, params=given)
        assert reply.status_code == 200, reply.text
        assert reply.headers["content-type"] == "application/json"
        return json.loads(reply.text, parse_constant=refuse_constant)

    return ask


@pytest.fixture
def refused(questioned):
    """Status and text of a refusal."""

    async def refused(method, **given):
        async with questioned() as http:
            reply = await http.get(method, params=given)
        return reply.status_code, reply.json()["error"]

    return refused
