"""The channel means of the newest requests, in few numbers each."""

from __future__ import annotations

from collections import deque

import numpy as np

from sidecar.drift.space import Projections

KEPT = 512
"""Requests: enough for a covariance of 32 projections, and 4 MB at 64 taps."""


class Projected:
    """`add` is called with what each reading brings, `newest` when somebody asks."""

    def __init__(self) -> None:
        self._parts: deque[Projections] = deque()
        self._held = 0

    def add(self, projections: Projections) -> None:
        """float32[taps, n, p], see `RequestRows`; p may be 0."""
        part = projections[:, -KEPT:].copy()
        if self._parts and self._parts[-1].shape[2] != part.shape[2]:
            self._parts.clear()
            self._held = 0
        self._parts.append(part)
        self._held += part.shape[1]
        while self._held - self._parts[0].shape[1] >= KEPT:
            self._held -= self._parts.popleft().shape[1]

    def newest(self, requests: int) -> Projections:
        """Of the newest `requests`, as far as they are kept, float32[taps, n, p], oldest first."""
        if not self._parts:
            return np.empty((0, 0, 0), np.float32)
        held = np.concatenate(list(self._parts), axis=1)
        return held[:, max(held.shape[1] - min(requests, KEPT), 0) :]
