"""Versions of one model that are served side by side, compared while they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.drift import DriftMonitor
from sidecar.drift.comparison import LayerDifference, compare
from sidecar.errors import BaselineError


@dataclass(frozen=True, slots=True)
class Observed:
    """A version that is watched."""

    model: str
    version: str
    monitor: DriftMonitor


@dataclass(frozen=True, slots=True)
class VersionDifference:
    """How far `version` is from `beside`, the first version of the model, over drift.window_seconds.

    layers: in depth order; empty, with the reason in detail, where the two cannot be compared.
    """

    model: str
    beside: str
    version: str
    layers: tuple[LayerDifference, ...]
    detail: str = ""


def version_differences(observed: Sequence[Observed], min_requests: int = 1) -> list[VersionDifference]:
    """Each further version of a model against its first, in the given order, where both have seen so many requests."""
    found = []
    first: dict[str, Observed] = {}
    for one in observed:
        beside = first.setdefault(one.model, one)
        if beside is not one:
            found.append(_difference(beside, one, min_requests))
    return found


def _difference(beside: Observed, one: Observed, min_requests: int) -> VersionDifference:
    try:
        windows = [side.monitor.snapshot(min_requests) for side in (beside, one)]
        layers = compare(*windows)
    except BaselineError as error:
        return VersionDifference(one.model, beside.version, one.version, (), str(error))
    return VersionDifference(one.model, beside.version, one.version, tuple(layers))
