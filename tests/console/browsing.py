"""A headless Chromium, and the page over known panes and states."""

from __future__ import annotations

import shutil

import pytest
from prometheus_client import CollectorRegistry

from sidecar.console.access import Access
from sidecar.console.api import Api, Sources
from sidecar.console.http import Standing, application
from sidecar.console.server import HttpServer
from sidecar.console.summary import Summary
from sidecar.settings import ServerSettings
from sidecar.timeline import History
from tests.console.kept import FREE, NOW, elsewhere

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def chromium():
    """Of one module, because no test of a coroutine can run while Playwright's loop does."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed here")
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with driver.sync_playwright() as playwright:
        # Where tests run as root, as in a container, Chromium cannot have its sandbox.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Pages:
    """The page at a port of its own, over the panes at `path`; can be stopped and started again at the same port."""

    def __init__(self, path, watched, token, settings=FREE):
        self._path, self._watched, self._token, self._settings = path, watched, token, settings
        self.port = 0
        self.start()

    def start(self):
        admits = (
            (lambda header: True)
            if self._token is None
            else (lambda header: header == b"Bearer " + self._token)
        )
        self._api = Api(
            Sources(History(self._path, dict), self._watched, None, elsewhere(self._settings)),
            self._settings,
            lambda: NOW,
        )
        least = self._settings.min_requests
        summary = Summary(self._watched, None, 60.0, least, 0.0, self._api.budget)
        app = application(
            CollectorRegistry(),
            Standing(self._watched),
            Access(admits, admits, lambda _: True),
            [*self._api.routes(), *summary.routes()],
        )
        self._server = HttpServer(app, ServerSettings(http_port=self.port), None)
        self.port = self._server.start()

    def stop(self):
        self._server.stop(10.0)
        self._api.close()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}/"


class Visit:
    """One tab, which remembers what went wrong in it and where it went."""

    def __init__(self, tab, address):
        self.tab, self.address = tab, address
        self.faults, self.asked = [], []
        tab.on(
            "console",
            lambda message: (
                self.faults.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        tab.on("pageerror", lambda error: self.faults.append(str(error)))
        tab.on("request", lambda request: self.asked.append(request.url))

    def go(self, place=""):
        """Open the address and wait until all of it is drawn."""
        self.tab.goto("about:blank")
        self.tab.goto(self.address + place)
        self.drawn()

    def drawn(self):
        self.tab.wait_for_selector("#bottom:not(:empty)", state="attached", timeout=20_000)

    @property
    def elsewhere(self):
        ours = (self.address, "data:", "blob:", "about:")
        return [url for url in self.asked if not url.startswith(ours)]


@pytest.fixture(scope="module")
def seen(chromium, kept_panes):
    """`seen(place)`: a tab that is opened once, at a view of the kept panes."""
    served, tabs = Pages(kept_panes, (), None), {}
    context = chromium.new_context(viewport={"width": 1280, "height": 900})

    def seen(place, phone=False):
        if (place, phone) not in tabs:
            tab = context.new_page()
            if phone:
                tab.set_viewport_size({"width": 375, "height": 800})
            tabs[place, phone] = Visit(tab, served.address)
            tabs[place, phone].go(place)
        return tabs[place, phone]

    yield seen
    context.close()
    served.stop()


@pytest.fixture
def pages(kept_panes):
    opened = []

    def pages(*watched, token=None, path=kept_panes, settings=FREE):
        opened.append(Pages(path, watched, token, settings))
        return opened[-1]

    yield pages
    for one in opened:
        one.stop()


@pytest.fixture
def visit(chromium, pages):
    """`visit(*watched)`: a tab at a page over these models."""
    contexts = []

    def visit(*watched, address=None, clock=False, **more):
        """address: of a page that is there already."""
        at = address or pages(*watched, **more).address
        context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        contexts.append(context)
        tab = context.new_page()
        if clock:
            tab.clock.install(time=NOW)
        return Visit(tab, at)

    yield visit
    for context in contexts:
        context.close()
