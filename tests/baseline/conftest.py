"""Baselines of synthetic traffic."""

import pytest

from sidecar.drift import ReferenceBuilder
from tests.drift.conftest import TAPS, Traffic


@pytest.fixture(scope="session")
def recorded():
    """A reference of 80 requests, of which those at layer 1 are moved by `shift`."""

    def recorded(version="1", seed=0, shift=0.0, model="digits", taps=TAPS, stratify_by=""):
        traffic = Traffic(seed=seed)
        builder = ReferenceBuilder(model, version, taps, 80, stratify_by)
        while not builder.complete:
            builder.add(traffic.reading(5, shifts={1: shift}))
        return builder.build()

    return recorded
