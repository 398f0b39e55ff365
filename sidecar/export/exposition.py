"""What a scraper gets: made at most once while the state stays as it is, in small steps, and shared by all who ask."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as Family

from sidecar.export.negotiation import Format
from sidecar.export.pace import Pace
from sidecar.export.protobuf import protobuf
from sidecar.export.text import openmetrics, text
from sidecar.types import Clock

LONGEST_SECONDS = 1.0
"""A page is given out again for no longer, however rarely sketches are taken off the device, but where pages cost more
than their share."""

SHARE, BURST_SECONDS = 0.005, 0.25
"""Of the time may go into pages, because requests are slower meanwhile, and so less than one in a hundred is. Up to so
many seconds may be saved, which one Prometheus never uses up."""

STALE_SECONDS = 15.0
"""A page is never older, whatever pages cost; the usual interval of a Prometheus."""

Encode = Callable[[Iterable[Family]], Iterator[bytes]]

FORMATS: Mapping[Format, Encode] = {"protobuf": protobuf, "openmetrics": openmetrics, "text": text}


@dataclass(frozen=True, slots=True)
class Page:
    """One scrape. made: `clock` seconds when its making began."""

    made: float
    plain: bytes
    compressed: bytes


class Exposition:
    """Pages of all that is registered.

    keep_seconds: for how long a page is given out again; the interval of the drain, because nothing of a tap changes
    between two.
    """

    def __init__(
        self, registry: CollectorRegistry, keep_seconds: float, clock: Clock = time.monotonic
    ) -> None:
        self._registry = registry
        self._keep = min(keep_seconds, LONGEST_SECONDS)
        self._clock = clock
        self._left, self._settled = BURST_SECONDS, clock()
        self._pages: dict[Format, Page] = {}
        self._making = {format: asyncio.Lock() for format in FORMATS}

    async def page(self, format: Format) -> Page:
        """The page in this format. Who asks while it is made waits for it, and makes no other."""
        async with self._making[format]:
            page = self._pages.get(format)
            if page is None or self._is_old(page):
                page = self._pages[format] = await asyncio.to_thread(self._make, format)
                self._left -= self._clock() - page.made
        return page

    def _is_old(self, page: Page) -> bool:
        now = self._clock()
        self._left = min(self._left + SHARE * (now - self._settled), BURST_SECONDS)
        self._settled = now
        return now - page.made >= (self._keep if self._left > 0 else STALE_SECONDS)

    def _make(self, format: Format) -> Page:
        made = self._clock()
        pieces = []
        pace = Pace()
        for piece in FORMATS[format](self._registry.collect()):
            pieces.append(piece)
            pace()
        plain = b"".join(pieces)
        # Fast and good enough: 1 makes a page a fifteenth of its size, and 9 takes six times as long for a twentieth.
        return Page(made, plain, gzip.compress(plain, 1, mtime=0))
