"""Where a request stands when requests are sampled, which only its id and the key decide."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple

from sidecar.settings import CaptureSettings
from sidecar.types import InferRequest

CHOICE = "sidecar_sample"
"""Request parameter by which a client asks to be observed (true) or left alone (false)."""

# What a float holds of a hash of 64 bits without rounding it up to 1.
_BITS = 53
_STEP = 2.0**-_BITS


class Sample(NamedTuple):
    """A request that is observed.

    weight: how many requests it stands for, 1 / (probability of being chosen), plus what it inherited.
    common: chosen at the rate that holds for all, so that what it brings may be compared over time.
    """

    weight: float
    common: bool


Choose = Callable[[InferRequest], Sample | None]
"""Decides about one request; None leaves it alone."""


class Sampler:
    """Head sampling by a keyed hash of the request id: the same id stands at the same place everywhere.

    A request is chosen at rate p if its place is below p, so a lower rate chooses a subset of a higher one.
    """

    def __init__(self, settings: CaptureSettings) -> None:
        self._keyed = blake2b(digest_size=8, key=settings.sample_key.encode()[:64])
        self._client_choice = settings.client_choice

    def place(self, request: InferRequest) -> float:
        """Even over [0, 1)."""
        # To copy what has read the key is quicker than to read it again.
        hashed = self._keyed.copy()
        hashed.update(request.id.encode())
        return (int.from_bytes(hashed.digest(), "little") >> (64 - _BITS)) * _STEP

    def choice(self, request: InferRequest) -> bool | None:
        """What the client asks for, if it is allowed to; None if it leaves it to us."""
        asked = request.parameters.get(CHOICE)
        return asked if self._client_choice and isinstance(asked, bool) else None
