"""Which version of a model a request goes to that names none."""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import blake2b

from sidecar.server.batching import Batcher
from sidecar.types import Servable

# So many that half a step above the largest hash is still below 1 as a float.
_BITS = 52


class Split:
    """Divides the requests of one model by weighted rendezvous hashing (Schindelhauer and Schomaker, 2005).

    Each version scores -weight / ln(u), where u in (0, 1) is a hash of model, version and key, and the highest score
    has the request. So a key goes to the same version in every process, the shares are the weights, a canary whose
    weight grows keeps the keys it had, and with one canary no other key moves than those that come to it.

    versions: those that are served. A canary has its share, and what canaries leave is the `steady` one's.
    """

    def __init__(self, versions: Iterable[Batcher], steady: Batcher) -> None:
        canaries = [one for one in versions if one.servable.canary is not None and one is not steady]
        shares = {one: one.servable.canary or 0.0 for one in canaries}
        self.key = steady.servable.canary_key
        self._steady = steady
        self._weights = {**shares, steady: max(1.0 - math.fsum(shares.values()), 0.0)} if canaries else {}
        self._hashes = {one: _seed(one.servable) for one in self._weights}

    def __bool__(self) -> bool:
        """There is a choice."""
        return bool(self._weights)

    def choose(self, key: str) -> Batcher:
        """The version for requests of `key`. A canary that is not ready or not trusted leaves them to the steady."""
        chosen, highest = self._steady, 0.0
        for version, weight in self._weights.items():
            score = -weight / math.log(self._place(version, key))
            if score > highest:
                chosen, highest = version, score
        return chosen if chosen.servable.ready and chosen.trusted() else self._steady

    def _place(self, version: Batcher, key: str) -> float:
        digest = self._hashes[version].copy()
        digest.update(key.encode())
        return (int.from_bytes(digest.digest(), "little") >> (64 - _BITS)) * 2.0**-_BITS + 2.0 ** -(_BITS + 1)


def _seed(servable: Servable) -> blake2b:
    # A label has no zero byte, so no two versions begin alike.
    return blake2b(f"{servable.name}\0{servable.version}\0".encode(), digest_size=8)
