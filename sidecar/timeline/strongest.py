"""The requests that drove each channel most."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sidecar.sketch import Peaks, Reading
from sidecar.types import Tap

KEPT = 8
"""Requests of a channel. With a value, a hash and a time of each a channel takes 128 bytes."""

MOST_IDS = 16_384
"""Ids that are kept as they came, where they may be; a request beyond them is named by its hash."""

KeepIds = Literal["none", "hashed", "plain"]

_UNNAMED = 0
_ENTRY = np.dtype([("value", np.float32), ("at", np.uint32), ("name", np.uint64)])


class Driver(NamedTuple):
    """A request that drove a channel. id: as the settings let it be seen; None where they do not, or it had none.

    value: the largest magnitude of the channel in it, with its sign. at: when it was drained, seconds since the epoch.
    """

    id: str | None
    value: float
    at: float


class Likeness(NamedTuple):
    """Another channel, and how many of the strongest requests of the one asked about are among its strongest."""

    channel: int
    shared: int


@dataclass(frozen=True, slots=True)
class Drivers:
    """Of one channel: its strongest requests, the strongest first, and the channels that share most of them."""

    requests: Sequence[Driver]
    alike: Sequence[Likeness]


def hashed(text: str) -> str:
    """The first 8 bytes of BLAKE2b, in hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class Strongest:
    """The eight strongest requests of each channel since the start, of each reading the strongest alone.

    A request that comes again under the same id counts once, with its largest value. One thread adds, any may ask.
    """

    def __init__(self, taps: Sequence[Tap], keep: KeepIds) -> None:
        self._keep = keep
        self._kept: dict[Tap, npt.NDArray[Any]] = {
            tap: np.zeros((tap.channels, KEPT), dtype=_ENTRY) for tap in taps
        }
        self._ids: dict[int, str] = {}
        self._lock = threading.Lock()

    def add(self, reading: Reading) -> None:
        names = _Names(reading.ids)
        with self._lock:
            for tap, peaks in reading.peaks.items():
                self._merge(self._kept[tap], peaks, names, reading.at)
            if self._keep == "plain":
                self._ids |= names.found
                if len(self._ids) > MOST_IDS:
                    self._forget()

    def of(self, tap: Tap, channel: int, most: int) -> Drivers:
        """most: of the channels that are alike."""
        with self._lock:
            own = self._kept[tap][channel].copy()
            names = self._kept[tap]["name"].copy()
            known = {int(name): self._ids.get(int(name)) for name in own["name"]}
        own = own[own["value"] != 0]
        named = own["name"][own["name"] != _UNNAMED]
        shared = np.isin(names, named).sum(axis=1)
        shared[channel] = 0
        ordered = np.argsort(-shared, kind="stable")[:most]
        return Drivers(
            [
                Driver(self._named(int(one["name"]), known), float(one["value"]), float(one["at"]))
                for one in own
            ],
            [Likeness(int(other), int(shared[other])) for other in ordered if shared[other]],
        )

    def shared(self, tap: Tap, channels: Sequence[int]) -> npt.NDArray[np.int64]:
        """int64[k, k] strongest requests that two of k channels share."""
        with self._lock:
            names = self._kept[tap]["name"][list(channels)]
        named = [one[one != _UNNAMED] for one in names]
        return np.array([[np.isin(one, other).sum() for other in named] for one in named], dtype=np.int64)

    def shown(self, id: str) -> str | None:
        """A request's id as the settings let it be seen; None where they do not, or it has none."""
        if self._keep == "none" or not id:
            return None
        return id if self._keep == "plain" else hashed(id)

    def _merge(self, kept: npt.NDArray[Any], peaks: Peaks, names: _Names, at: float) -> None:
        risen = np.flatnonzero((peaks.requests >= 0) & (np.abs(peaks.values) > np.abs(kept["value"][:, -1])))
        if not risen.size:
            return
        joined = np.zeros((risen.size, KEPT + 1), dtype=_ENTRY)
        joined[:, :KEPT] = kept[risen]
        joined["value"][:, KEPT] = peaks.values[risen]
        joined["at"][:, KEPT] = int(at)
        joined["name"][:, KEPT] = names.of(peaks.requests[risen])
        self._once(joined)
        order = np.argsort(-np.abs(joined["value"]), axis=1, kind="stable")[:, :KEPT]
        kept[risen] = np.take_along_axis(joined, order, axis=1)

    @staticmethod
    def _once(joined: npt.NDArray[Any]) -> None:
        """Empty the weaker of two entries of one request, one of which is the last."""
        names, size = joined["name"], np.abs(joined["value"])
        row, place = np.nonzero((names[:, :KEPT] == names[:, KEPT:]) & (names[:, KEPT:] != _UNNAMED))
        weaker = np.where(size[row, place] < size[row, KEPT], place, KEPT)
        joined[row, weaker] = np.zeros((), dtype=_ENTRY)

    def _forget(self) -> None:
        """Ids that no channel names any more; if most are still named, the older half."""
        named = np.unique(np.concatenate([np.unique(kept["name"]) for kept in self._kept.values()]))
        live = [name for name in self._ids if named[np.searchsorted(named, name) % named.size] == name]
        self._ids = {name: self._ids[name] for name in live[-(MOST_IDS // 2) :]}

    def _named(self, name: int, known: dict[int, str | None]) -> str | None:
        if self._keep == "none" or name == _UNNAMED:
            return None
        return known[name] or f"{name:016x}"


class _Names:
    """Names of a reading's requests, of which only those that are asked for are hashed.

    found: name -> id, of those that have one.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids = ids
        self.found: dict[int, str] = {}
        self._names = np.zeros(len(ids), dtype=np.uint64)
        self._known = np.array([not id for id in ids], dtype=np.bool_)

    def of(self, requests: npt.NDArray[np.int32]) -> npt.NDArray[np.uint64]:
        if not self._ids:
            return np.zeros(requests.size, dtype=np.uint64)
        for place in np.unique(requests[~self._known[requests]]).tolist():
            name = int(hashed(self._ids[place]), 16)
            self._known[place], self._names[place], self.found[name] = True, name, self._ids[place]
        return self._names[requests]
