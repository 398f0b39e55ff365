"""Copies of a few requests' inputs, for a person to look at."""

from __future__ import annotations

from math import floor, log, log1p
from random import Random
from sys import getsizeof

import numpy as np

from sidecar.types import Clock, InferRequest, KeptInput, Tensor

MOST_BYTES = 64 << 20
"""Of all that is kept of a model version."""


class Reservoir:
    """A uniform sample of the requests that were offered: algorithm L of Li, ACM TOMS 20, 1994.

    It draws how many requests to leave out until the next one that is kept, so those cost next to nothing.

    most: inputs that are kept. A request that is larger than its share of MOST_BYTES is passed over.
    passed_over: such requests so far. One thread offers, any may read.
    """

    def __init__(self, most: int, random: Random, clock: Clock) -> None:
        self.passed_over = 0
        self._most, self._random, self._clock = most, random, clock
        self._offered = self._next = 0
        self._largest = 1.0
        self._kept: list[KeptInput] = []

    def offer(self, request: InferRequest) -> None:
        if not request.inputs:
            return
        if _bytes(request) > MOST_BYTES // self._most:
            self.passed_over += 1
            return
        self._offered += 1
        if len(self._kept) < self._most:
            self._kept.append(self._copy(request))
            if len(self._kept) == self._most:
                self._skip()
        elif self._offered == self._next:
            self._kept[self._random.randrange(self._most)] = self._copy(request)
            self._skip()

    def _skip(self) -> None:
        """Draw which request is kept next.

        As if each had a random number and the smallest were kept: the largest of those is all that needs to be known.
        """
        self._largest *= self._random.random() ** (1 / self._most)
        left_out = floor(log(1 - self._random.random()) / log1p(-self._largest))
        self._next = self._offered + left_out + 1

    def kept(self) -> tuple[KeptInput, ...]:
        return tuple(self._kept)

    def _copy(self, request: InferRequest) -> KeptInput:
        # What is given may lie in a message or in memory that the client writes again.
        inputs = {name: Tensor(one.datatype, one.array.copy()) for name, one in request.inputs.items()}
        return KeptInput(request.id, self._clock(), inputs, request.rows)


def _bytes(request: InferRequest) -> int:
    """In memory, where a string of BYTES has a pointer and a header of its own."""
    size = getsizeof(request.id)
    for one in request.inputs.values():
        size += one.array.nbytes
        if one.array.dtype == np.object_:
            size += sum(map(getsizeof, one.array.flat))
    return size
