"""The page over a week of panes, 64 taps of 4,096 channels, in a browser; and what open pages do to requests."""

import os
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from prometheus_client import CollectorRegistry

from sidecar.console.access import Access
from sidecar.console.api import Api, Sources
from sidecar.console.http import Standing, application
from sidecar.console.server import HttpServer
from sidecar.console.summary import Summary
from sidecar.export.exposition import Exposition
from sidecar.settings import ConsoleSettings, ServerSettings
from sidecar.timeline import History, Retention, Store, Subject
from sidecar.types import Tap
from tests.bench import store, viewing

REPEATS = 5
WEEK = f"begin={store.NOW - store.WEEK:.0f}&end={store.NOW:.0f}"
VIEWS = {
    "overview, a week": f"#/overview?{WEEK}",
    "layer, a week": f"#/layer?layer=5&{WEEK}",
    "layer, ten minutes": "#/layer?layer=5&range=600",
    "neuron, a week": f"#/neuron?layer=5&channel=17&{WEEK}",
    "drift, a week": f"#/drift?{WEEK}",
    "compare, ten minutes": "#/compare?layer=5&range=600",
}


def opened(address: str, chromium: str) -> dict[str, dict[str, float]]:
    """View -> seconds from asking for the page, with nothing cached, to its first plot and to its last."""
    from playwright.sync_api import sync_playwright

    found = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, place in VIEWS.items():
            first, taken = [], []
            for _ in range(REPEATS):
                context = browser.new_context(viewport={"width": 1280, "height": 900})
                tab = context.new_page()
                began = time.perf_counter()
                tab.goto(address + place, wait_until="commit")
                tab.wait_for_selector(
                    ".plot .main-svg, #bottom:not(:empty)", state="attached", timeout=60_000
                )
                first.append(time.perf_counter() - began)
                tab.wait_for_selector("#bottom:not(:empty)", state="attached", timeout=60_000)
                taken.append(time.perf_counter() - began)
                context.close()
            found[name] = {"first_plot": median(first), "seconds": median(taken), "worst_seconds": max(taken)}
        browser.close()
    return found


def run() -> dict[str, Any]:
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("the benchmark of the page needs a chromium on the path")
    taps = tuple(Tap(layer, "resid", f"blocks.{layer}", store.CHANNELS) for layer in range(store.TAPS))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.db"
        written = Store(path, Retention(10.0, 7.0, 4_000.0))
        store.fill(written, Subject("bench", "1", taps))
        written.close()
        api = Api(
            Sources(History(path, dict), [], None, store.nowhere()),
            ConsoleSettings(budget=64.0),
            lambda: store.NOW,
        )
        summary = Summary([], None, 60.0, 20, 1.0, api.budget)
        routes = [*api.routes(), *summary.routes()]
        app = application(
            Exposition(CollectorRegistry(), 0.0),
            Standing([]),
            Access(*[lambda _: True] * 3),
            routes,
        )
        server = HttpServer(app, ServerSettings(http_port=0), None)
        views = opened(f"http://127.0.0.1:{server.start()}/", chromium)
        server.stop(10.0)
        api.close()
    load = os.getloadavg()[0]
    print(f"the page over a week of {store.TAPS} taps of {store.CHANNELS} channels (load {load:.1f}):")
    for name, one in views.items():
        print(
            f"  {name:<24}first plot {one['first_plot']:.2f} s, all {one['seconds']:.2f} s, "
            f"{one['worst_seconds']:.2f} s at worst"
        )
    return {"load": load, "views": views, "beside": viewing.beside()}
