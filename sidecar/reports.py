"""Writes a range of the store as one HTML file, and pictures of its views."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sidecar.console.bundle import document
from sidecar.console.hindsight import Hindsight
from sidecar.console.report import Reported, answers
from sidecar.console.scope import Scope
from sidecar.errors import ConfigError, RequestError
from sidecar.settings import ConsoleSettings
from sidecar.timeline import History
from sidecar.types import Clock

VIEWS = ("overview", "layer", "neuron", "drift", "compare")
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_SECONDS = 60.0
_WIDTH, _USUAL_HEIGHT = 1280, 1800


def write(
    store: Path, settings: ConsoleSettings, hindsight: Hindsight, reported: Reported, out: Path, clock: Clock
) -> None:
    """The page with its answers in it, at `out`.

    Raises ConfigError for a store that is not there, or a model version or step that it does not have; StoreError
    for one that is damaged; BaselineError for a baseline that cannot be used.
    """
    if not store.exists():
        raise ConfigError(f"there is no store {store}")
    try:
        with History(store, dict).open() as recall:
            told = answers(Scope(recall, (), None, settings.min_requests, clock, {}, ()), reported, hindsight)
    except RequestError as error:
        raise ConfigError(f"store {store}: {error}") from error
    title = f"{reported.model or 'Activations'} · report"
    out.write_text(document(title, told), encoding="utf-8")


def photograph(report: Path, folder: Path, path: str) -> Iterator[Path]:
    """A PNG of each view. path: where to look for a Chromium. Raises ConfigError where there is none."""
    found = [browser for name in _BROWSERS if (browser := shutil.which(name, path=path))]
    if not found:
        raise ConfigError(f"--pictures needs a Chromium on the path: one of {', '.join(_BROWSERS)}")
    folder.mkdir(parents=True, exist_ok=True)
    # Chromium refuses its sandbox to root; what is opened is the file that was just written.
    privileges = ["--no-sandbox"] if os.geteuid() == 0 else []
    for view in VIEWS:
        picture = (folder / f"{view}.png").absolute()
        address = f"{report.absolute().as_uri()}#/{view}"
        drawn = _headless(found[0], privileges, _USUAL_HEIGHT, "--dump-dom", address)
        tall = re.search(rb'<html[^>]* data-height="(\d+)"', drawn)
        height = int(tall[1]) if tall else _USUAL_HEIGHT
        _headless(found[0], privileges, height, f"--screenshot={picture}", address)
        if not picture.exists():
            raise ConfigError(f"{found[0]} made no picture of {view}")
        yield picture


def _headless(browser: str, privileges: list[str], height: int, wanted: str, address: str) -> bytes:
    """What it writes to standard output. height: of its window, in pixels."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser, "--headless", *privileges, f"--user-data-dir={profile}", "--hide-scrollbars",
            f"--window-size={_WIDTH},{height}", "--virtual-time-budget=10000", wanted, address,
        ]  # fmt: skip
        return subprocess.run(command, check=False, timeout=_SECONDS, capture_output=True).stdout
