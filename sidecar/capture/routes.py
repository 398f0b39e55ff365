"""Kinds of requests that are each sampled at least a little, however rare they are beside the others."""

from __future__ import annotations

import math

from sidecar.types import InferRequest

ROUTE = "sidecar_route"
"""Request parameter, a string, that names a request's route."""

MOST_ROUTES = 64
_LONGEST_NAME = 128
_HORIZON_SECONDS = 300.0
_FORGOTTEN = 0.05
_CATCH_UP_SECONDS = 10.0


class Route:
    """Requests of one kind.

    floor: probability at which they are chosen at the least; 0 until a second has shown how many there are.
    owed: weight of those that were chosen since one was observed. due: one may be observed whatever it costs.
    """

    __slots__ = ("_allowance", "_requests", "_seconds", "arrived", "floor", "owed")

    def __init__(self) -> None:
        self.arrived = 0
        self.floor = 0.0
        self.owed = 0.0
        self._allowance = 0.0
        self._requests = 0.0
        self._seconds = 0.0

    @property
    def due(self) -> bool:
        return self._allowance >= 1

    def collect(self) -> float:
        """One is observed: the weight that it stands for."""
        weight, self.owed = self.owed, 0.0
        self._allowance = max(self._allowance - 1, 0.0)
        return weight

    def measure(self, seconds: float, samples_per_second: float, highest: float) -> float:
        """Fold in what arrived in the last `seconds`; requests of the last minutes, the older the less."""
        keep = math.exp(-seconds / _HORIZON_SECONDS)
        self._requests = keep * self._requests + self.arrived
        self._seconds = keep * self._seconds + seconds
        self.arrived = 0
        if self._requests:
            self.floor = min(highest, samples_per_second * self._seconds / self._requests)
        most = 1 + samples_per_second * _CATCH_UP_SECONDS
        self._allowance = min(most, self._allowance + samples_per_second * seconds)
        return self._requests


class Routes:
    """At most `MOST_ROUTES` by name, and one more that all other names share.

    samples_per_second: what each gets at the least, as far as the probability `highest` allows it.
    A route is forgotten after about a quarter of an hour without requests, and makes room for another.
    """

    def __init__(self, samples_per_second: float, highest: float) -> None:
        self._samples_per_second = samples_per_second
        self._highest = highest
        self._others = Route()
        self._named: dict[str, Route] = {}

    def __len__(self) -> int:
        return len(self._named)

    def of(self, request: InferRequest) -> Route:
        """Counts the request in. One that names no route belongs to the route named ""."""
        name = request.parameters.get(ROUTE, "")
        if not isinstance(name, str) or len(name) > _LONGEST_NAME:
            route = self._others
        elif (known := self._named.get(name)) is not None:
            route = known
        elif len(self._named) < MOST_ROUTES:
            route = self._named[name] = Route()
        else:
            route = self._others
        route.arrived += 1
        return route

    def measure(self, seconds: float) -> None:
        """The last `seconds` are over: set every route's floor anew."""
        self._others.measure(seconds, self._samples_per_second, self._highest)
        for name, route in list(self._named.items()):
            if route.measure(seconds, self._samples_per_second, self._highest) < _FORGOTTEN:
                del self._named[name]
