"""Synthetic traffic: requests of correlated values at several taps."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from sidecar.sketch import Reading, RequestRows, TapSketch
from sidecar.types import Tap

NEAR_ZERO = 2.0**-10
CHANNELS = 4
TAPS = tuple(Tap(layer, "resid", f"blocks.{layer}", CHANNELS) for layer in range(3))


def row(values):
    finite = values[np.isfinite(values)].astype(np.float64)
    centred = finite - finite.mean()
    return [
        finite.mean(),
        np.sqrt(np.mean(finite**2)),
        np.abs(finite).max(),
        np.mean(np.abs(finite) <= NEAR_ZERO),
        np.mean(centred**4) / np.mean(centred**2) ** 2,
        values.size - finite.size,
    ]


@dataclass
class Traffic:
    """`within`: share of the variance of a value that all values of its request have in common."""

    seed: int = 0
    within: float = 0.3
    at: float = 1000.0
    rng: np.random.Generator = field(init=False)

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)

    def clock(self):
        return self.at

    def request(self, shift=0.0):
        """Values of one request at one tap, float32[8, CHANNELS], mean `shift`, standard deviation 1."""
        common = self.rng.normal() * np.sqrt(self.within)
        own = self.rng.normal(size=(8, CHANNELS)) * np.sqrt(1 - self.within)
        return (common + own + shift).astype(np.float32)

    def reading(self, requests, shifts=None, edit=None):
        """shifts: tap index -> shift of its mean. edit: called with (tap index, values [n, 8, C]) in place."""
        self.at += 1.0
        sketches, rows = {}, {}
        for index, tap in enumerate(TAPS):
            values = np.stack([self.request((shifts or {}).get(index, 0.0)) for _ in range(requests)])
            if edit:
                edit(index, values)
            sketches[tap] = TapSketch.from_array(values, NEAR_ZERO, requests)
            rows[tap] = RequestRows(np.array([row(request) for request in values]))
        return Reading(self.at, sketches, rows, requests)


@pytest.fixture
def traffic():
    return Traffic()


@pytest.fixture
def taps():
    return TAPS


@pytest.fixture(scope="session")
def make_traffic():
    return Traffic
