"""How many requests are observed, so that telemetry stays within its share of inference time.

Two controls. Once a second the rate is set to what the budget affords at the costs that were measured
(feed-forward). In between a token bucket refuses what would overspend: it fills as inference runs and
empties as telemetry does, in real time, so it holds even while the measured costs are out of date.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from sidecar.capture.routes import Routes
from sidecar.capture.sampling import Sample, Sampler
from sidecar.settings import CaptureSettings
from sidecar.types import Clock, InferRequest

AIM = 0.9
"""The rate aims at this share of the budget; the rest is for what cannot be foreseen."""

BURST_SECONDS = 0.25
"""The bucket holds the budget of this much time at the present load."""

DEBT_SECONDS = 10.0
"""What was overspent is paid back up to the budget of this much time: one cost out of all proportion, such as
a compilation, shall not end observation for hours."""

_PERIOD_SECONDS = 1.0
_FRESH = 0.5


class Spending(NamedTuple):
    """Seconds since the start: of inference without telemetry, of taps inside it, of what a drain brings to light.

    drain: its own time, and that of taps which cannot report theirs. choosing: who is observed, which every request
    costs.
    """

    inference: float
    taps: float
    drain: float
    choosing: float = 0.0


class TokenBucket:
    """Seconds that may be spent now: at most `burst`, and below 0 after a cost nobody foresaw.

    burst: what `BURST_SECONDS` earn at the pace of the moment, so savings from a time of high load do not
    outlast it.
    """

    def __init__(self) -> None:
        self.burst = self.level = 0.0

    def settle(self, earned: float, spent: float, seconds: float) -> None:
        """seconds: of the clock since the last time."""
        if seconds > 0:
            fresh = 1 - math.exp(-seconds / BURST_SECONDS)
            self.burst += fresh * (BURST_SECONDS * earned / seconds - self.burst)
        self.level = min(self.burst, self.level + earned - spent)

    def forgive(self, debt: float) -> None:
        """Let no more than `debt` be paid back."""
        self.level = max(-debt, self.level)


class Average:
    """Of a cost per event. It forgets with each `add` and not with time, so it outlasts hours without an event.

    value: 0 before the first event.
    """

    def __init__(self) -> None:
        self.value = 0.0
        self._known = False

    def add(self, cost: float, events: float) -> None:
        if events:
            self.value += (_FRESH if self._known else 1.0) * (cost / events - self.value)
            self._known = True


class Governor:
    """Decides request by request, on the one thread that runs the model.

    rate: share of the requests that are chosen now, at most `capture.sample_rate`. refused: requests that
    were chosen and not observed, because the bucket was empty; the next one of their route that is observed
    stands for them too, so the weights of the observed still add up to all requests.

    spending: called for the seconds so far. A budget of 1 governs nothing.
    """

    def __init__(self, settings: CaptureSettings, spending: Callable[[], Spending], clock: Clock) -> None:
        self.rate = settings.sample_rate
        self.refused = 0
        self.bucket = TokenBucket()
        self._asked = settings.sample_rate
        self.budget = settings.budget
        self._governs = settings.budget < 1
        self._sampler = Sampler(settings)
        self._routes = Routes(settings.route_floor, settings.sample_rate)
        self._spending = spending
        self._clock = clock
        self._began = self._settled_at = clock()
        self._settled = self._at_start = Spending(0.0, 0.0, 0.0)
        self._arrived = self._sampled = self._undrained = 0
        self._advanced = 0.0
        self._inference, self._choice, self._tap = Average(), Average(), Average()
        self._drain, self._pace = Average(), Average()

    def sample(self, request: InferRequest) -> Sample | None:
        """None: leave it alone."""
        if self._governs and not 0 <= (seconds := self._clock() - self._began) < _PERIOD_SECONDS:
            self._adjust(max(seconds, 0.0))
        self._arrived += 1
        route = self._routes.of(request)
        choice = self._sampler.choice(request)
        if choice is not None:
            return self._forced() if choice else None
        place = self._sampler.place(request)
        rate = max(self.rate, route.floor)
        if place >= rate:
            return None
        route.owed += 1 / rate
        affordable = self._affords()
        if not affordable and not (place < route.floor and route.due):
            self.refused += 1
            return None
        return self._take(Sample(route.collect(), place < self.rate and affordable))

    def _affords(self) -> bool:
        if not self._governs:
            return True
        self._settle()
        return self.bucket.level >= 0

    def _forced(self) -> Sample | None:
        if self._affords():
            return self._take(Sample(1.0, True))
        self.refused += 1
        return None

    def _take(self, sample: Sample) -> Sample:
        if not self._governs:
            return sample
        self._sampled += 1
        self._undrained += 1
        # What the drain will cost is known only once it ran, a second later; it is paid in advance.
        self._advanced += self._drain.value
        self.bucket.settle(0.0, self._drain.value, 0.0)
        return sample

    def _settle(self) -> None:
        """Put into the bucket what was earned, and take out what was spent, since the last time."""
        now, before, at = self._spending(), self._settled, self._clock()
        spent = now.taps - before.taps + now.choosing - before.choosing
        if (drained := now.drain - before.drain) > 0:
            spent += drained - self._advanced
            self._drain.add(drained, self._undrained)
            self._advanced, self._undrained = 0.0, 0
        self.bucket.settle(self.budget * (now.inference - before.inference), spent, at - self._settled_at)
        self._settled, self._settled_at = now, at

    def _adjust(self, seconds: float) -> None:
        """The last `seconds` are over: set rate, bucket and floors to what they showed."""
        self._settle()
        now, before = self._settled, self._at_start
        self._inference.add(now.inference - before.inference, self._arrived)
        self._choice.add(now.choosing - before.choosing, self._arrived)
        self._tap.add(now.taps - before.taps, self._sampled)
        if seconds:
            self._pace.add((now.inference - before.inference) / seconds, 1)
            self.bucket.forgive(DEBT_SECONDS * self.budget * self._pace.value)
        if cost := self._tap.value + self._drain.value:
            affordable = AIM * self.budget * self._inference.value - self._choice.value
            self.rate = min(self._asked, max(affordable, 0.0) / cost)
        self._routes.measure(seconds)
        self._began = self._clock()
        self._at_start, self._arrived, self._sampled = now, 0, 0
