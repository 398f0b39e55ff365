"""Ties together what remembers: the thread that keeps panes, its metrics, and the API over all that was seen."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.routing import Route

from sidecar.baseline import replicas
from sidecar.console.api import Api, Sources, as_tree
from sidecar.console.elsewhere import Elsewhere
from sidecar.console.summary import Summary
from sidecar.export.activations import Watched
from sidecar.export.store import StoreCollector
from sidecar.settings import Settings
from sidecar.timeline import History, Keeper, Retention, Subject, Timeline
from sidecar.types import Clock

REPLICA_SECONDS = 5.0
"""How long a replica may take to send its window."""


class Memory:
    """watched: versions that are served; one list for good, read from other threads.

    store: how the store fares; None where nothing is kept.
    """

    def __init__(self, settings: Settings, watched: Sequence[Watched], clock: Clock) -> None:
        kept = settings.store
        path = Path(kept.path) if kept.path else None
        retention = Retention(settings.timeline.pane_seconds, kept.keep_days, kept.max_megabytes)
        self._watched = watched
        self._keeper = Keeper(path, retention, clock) if path else None
        self.store = self._keeper.status if self._keeper else None
        history = History(path, self._timelines, self._keeper.report if self._keeper else lambda _: None)
        elsewhere = Elsewhere(
            settings.console, partial(replicas.fetch, seconds=REPLICA_SECONDS), time.monotonic
        )
        self._api = Api(Sources(history, watched, self.store, elsewhere), settings.console, clock)
        self._summary = Summary(
            watched,
            self.store,
            settings.drift.window_seconds,
            settings.console.min_requests,
            settings.capture.drain_seconds,
            self._api.budget,
        )

    def register(self, registry: CollectorRegistry) -> None:
        if self.store:
            registry.register(StoreCollector(self.store))

    def remember(self, watched: Watched) -> None:
        """Have the panes of a version kept; to be called before it takes requests."""
        keeper, timeline, monitor = self._keeper, watched.timeline, watched.monitor
        if keeper and timeline and monitor:
            subject = Subject(watched.model, watched.version, timeline.taps)
            timeline.on_closed = lambda pane: keeper.put(subject, pane, {"evidence": monitor.evidence()})

    def ask(self, method: str, given: Mapping[str, object]) -> Awaitable[dict[str, Any]]:
        """A `server.telemetry.Ask`."""
        return self._api.ask(method, given, as_tree)

    def routes(self) -> list[Route]:
        """Of the API over HTTP: answers from the store and from what is in memory."""
        return [*self._api.routes(), *self._summary.routes()]

    def start(self) -> None:
        if self._keeper:
            self._keeper.start()

    def stop(self, timeout: float) -> None:
        """Keep what waits to be kept, and answer no more; to be called when nothing is observed any more."""
        if self._keeper:
            self._keeper.stop(timeout)
        self._api.close()

    def _timelines(self) -> dict[tuple[str, str], Timeline]:
        return {(one.model, one.version): one.timeline for one in tuple(self._watched) if one.timeline}
