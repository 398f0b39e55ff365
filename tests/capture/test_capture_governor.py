"""The sampling governor: what it spends, whom it chooses, and what each chosen request stands for."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.capture import Governor, Spending
from sidecar.capture.governor import BURST_SECONDS, TokenBucket
from sidecar.capture.routes import MOST_ROUTES
from sidecar.settings import CaptureSettings
from sidecar.types import InferRequest

BUDGET = 0.02
PHASE_SECONDS = 25.0


@dataclass
class Machine:
    """One model thread, a drain once a second, and requests that come at random; time is simulated.

    Seconds: inference of a request, choosing it or not, tap of a sampled one, drain of a sampled one and of a drain as
    such.
    """

    seed: int = 0
    sample_rate: float = 1.0
    route_floor: float = 0.1
    inference: float = 1e-3
    choosing: float = 0.0
    tap: float = 60e-6
    drain: float = 10e-6
    wake: float = 100e-6
    now: float = 0.0
    weights: dict[str, list[float]] = field(default_factory=dict)
    course: list[tuple[float, float, float]] = field(default_factory=lambda: [(0.0, 0.0, 0.0)])

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)
        capture = CaptureSettings(
            budget=BUDGET,
            sample_rate=self.sample_rate,
            route_floor=self.route_floor,
            sample_key=str(self.seed),
        )
        self.governor = Governor(capture, lambda: self.spent, lambda: self.now)
        self.spent = Spending(0.0, 0.0, 0.0)
        self.requests = self.undrained = 0
        self.next_drain = 1.0

    def run(self, load, cost=1.0, speed=1.0, seconds=PHASE_SECONDS, routes=("",), shares=(1.0,)):
        """load: requests a second. cost, speed: factors on what telemetry takes and on how fast the model is."""
        end, free = self.now + seconds, self.now
        while self.now < end:
            self.now = max(self.now + self.rng.exponential(1 / load), free)
            while self.next_drain <= self.now:
                self._drain(cost)
            route = str(self.rng.choice(routes, p=shares)) if len(routes) > 1 else routes[0]
            sample = self.governor.sample(InferRequest(str(self.requests), {}, 1, {"sidecar_route": route}))
            self.requests += 1
            inference = self.inference / speed * self.rng.gamma(4.0, 0.25)
            taps = self.tap * cost if sample else 0.0
            self.undrained += sample is not None
            self.weights.setdefault(route, []).append(sample.weight if sample else 0.0)
            free = self.now + self.choosing + inference + taps
            self._note(free, inference=inference, taps=taps, choosing=self.choosing)

    def _drain(self, cost):
        if self.undrained:
            self._note(self.next_drain, drain=(self.wake + self.drain * self.undrained) * cost)
        self.undrained = 0
        self.next_drain += 1.0

    def _note(self, at, inference=0.0, taps=0.0, drain=0.0, choosing=0.0):
        more = Spending(inference, taps, drain, choosing)
        self.spent = Spending(*(before + now for before, now in zip(self.spent, more, strict=True)))
        self.course.append((max(at, self.course[-1][0]), self.spent.inference, sum(self.spent[1:])))

    def shares(self, window=10.0):
        """Telemetry as a share of inference in every window, at steps of a tenth of a second."""
        at, inference, telemetry = np.array(self.course).T
        grid = np.arange(0.0, at[-1], 0.1)
        wide = int(window / 0.1)
        bought, had = (np.interp(grid, at, seconds) for seconds in (telemetry, inference))
        return (bought[wide:] - bought[:-wide]) / (had[wide:] - had[:-wide])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "phases",
    [
        [(90, 1, 1), (900, 1, 1), (900, 4, 1), (900, 4, 4)],
        [(90, 1, 1), (900, 4, 4), (90, 1, 1)],
        [(900, 4, 4), (900, 1, 1), (90, 1, 1), (90, 4, 1)],
    ],
    ids=["one after the other", "all at once and back", "backwards"],
)
def test_load_cost_and_speed_may_jump_and_the_worst_ten_seconds_stay_within_the_budget(phases, seed):
    machine = Machine(seed)
    for phase in phases:
        machine.run(*phase)
    assert machine.shares().max() <= 1.1 * BUDGET


def test_what_choosing_costs_every_request_is_paid_out_of_the_budget():
    machine = Machine(choosing=BUDGET / 2 * 1e-3)
    machine.run(900)
    assert machine.shares().max() <= 1.1 * BUDGET


def test_the_rate_leaves_room_for_choosing():
    free, dear = Machine(), Machine(choosing=BUDGET / 2 * 1e-3)
    for machine in (free, dear):
        machine.run(500)
    assert dear.governor.rate < 0.6 * free.governor.rate


def test_choosing_that_took_more_than_the_budget_stops_observing_at_once():
    machine = Machine()
    machine.spent = Spending(1.0, 0.0, 0.0, choosing=2 * BUDGET)
    assert machine.governor.sample(request(1, sidecar_sample=True)) is None


@pytest.mark.parametrize(
    "costs",
    [{}, {"tap": 10e-6, "drain": 60e-6}, {"choosing": BUDGET / 2 * 1e-3}],
    ids=["taps", "drain", "choosing"],
)
def test_most_of_the_budget_is_used_whatever_takes_it(costs):
    machine = Machine(**costs)
    machine.run(500)
    assert machine.shares()[-1] > 0.8 * BUDGET


def test_without_a_governor_the_same_jumps_break_the_budget():
    machine = Machine()
    machine.governor._governs = False
    machine.governor.rate = 0.1
    for phase in [(50, 1, 1), (500, 4, 4)]:
        machine.run(*phase)
    assert machine.shares().max() > 5 * BUDGET


def test_the_rate_never_passes_what_was_asked_for():
    machine = Machine(sample_rate=0.05, tap=1e-7, drain=1e-7, wake=0.0)
    machine.run(500)
    assert machine.governor.rate == 0.05
    assert np.count_nonzero(machine.weights[""]) == pytest.approx(0.05 * machine.requests, rel=0.2)


def test_a_sample_rate_of_nothing_observes_nothing_even_of_a_rare_route():
    machine = Machine(sample_rate=0.0)
    machine.run(50, routes=("", "rare"), shares=(0.98, 0.02))
    assert not np.any(machine.weights["rare"])


@pytest.mark.parametrize("seed", range(3))
def test_the_weights_of_the_observed_add_up_to_the_requests_of_their_route(seed):
    machine = Machine(seed)
    for phase in [(300, 1, 1), (800, 4, 1), (300, 4, 4), (800, 1, 1)]:
        machine.run(*phase, routes=("", "rare"), shares=(0.95, 0.05))
    assert machine.governor.refused > 0
    for weights in machine.weights.values():
        observed = np.count_nonzero(weights)
        assert observed > 100
        assert np.sum(weights) == pytest.approx(len(weights), rel=6 / observed**0.5)


def test_a_refused_request_is_stood_for_by_the_next_one():
    machine = Machine(route_floor=0.0)
    machine.governor.bucket.level = -1.0
    assert all(machine.governor.sample(request(i)) is None for i in range(7))
    machine.governor.bucket.level = 1.0
    assert machine.governor.sample(request(8)).weight == 8
    assert machine.governor.refused == 7


def test_a_rare_route_is_seen_while_the_budget_pays_for_hardly_anything():
    machine = Machine(tap=20e-3)
    machine.run(500, seconds=100.0, routes=("", "rare"), shares=(0.999, 0.001))
    common, rare = (np.array(machine.weights[route]) for route in ("", "rare"))
    assert np.count_nonzero(rare) >= 5
    assert np.mean(rare > 0) > 50 * np.mean(common > 0)
    assert np.median(rare[rare > 0]) < 0.05 * np.median(common[common > 0])


def test_a_route_nobody_has_seen_before_gains_nothing_by_its_name():
    machine = Machine(tap=20e-3)
    machine.run(500, seconds=10.0)
    rate = machine.governor.rate
    chosen = [machine.governor.sample(request(i, sidecar_route=f"new {i}")) for i in range(2_000)]
    assert rate < 0.005
    assert sum(sample is not None for sample in chosen) < 2_000 * rate + 10


def test_routes_are_bounded_and_forgotten():
    machine = Machine()
    for i in range(1_000):
        machine.governor.sample(request(i, sidecar_route=f"r{i}"))
    assert len(machine.governor._routes) == MOST_ROUTES
    for _ in range(30):
        machine.now += 60.0
        machine.governor.sample(request("x"))
    assert len(machine.governor._routes) == 1


def test_samples_for_the_floors_sake_are_not_common():
    machine = Machine(tap=20e-3)
    machine.run(500, seconds=60.0, routes=("", "rare"), shares=(0.999, 0.001))
    machine.governor.bucket.level = 1.0
    samples = [machine.governor.sample(request(f"f{i}", sidecar_route="rare")) for i in range(200)]
    observed = [sample for sample in samples if sample]
    assert len(observed) > 10
    assert not any(sample.common for sample in observed)


def test_a_cost_out_of_all_proportion_ends_observation_for_ten_seconds_and_not_for_hours():
    machine = Machine(route_floor=0.1)
    machine.run(500)
    machine._note(machine.now, taps=30.0)
    machine.run(500, seconds=1.5)
    assert machine.governor.bucket.level < 0
    machine.run(500, seconds=13.0)
    assert machine.governor.bucket.level >= 0


def test_a_drain_that_took_longer_than_it_was_paid_for_is_paid_afterwards():
    machine = Machine()
    machine.run(500)
    machine._note(machine.now, drain=0.05)
    machine.run(500, seconds=0.5)
    assert machine.governor.bucket.level < -0.03


def test_a_clock_that_is_set_back_does_not_stop_the_rate_from_following_the_cost():
    machine = Machine()
    machine.run(500)
    before = machine.governor.rate
    machine.now -= 3600.0
    machine.next_drain = machine.now + 1.0
    machine.run(500, cost=4.0)
    assert 0.1 * before < machine.governor.rate < 0.4 * before


def test_a_client_that_asks_to_be_observed_is_refused_when_the_budget_is_spent():
    machine = Machine()
    asking = request(1, sidecar_sample=True)
    assert machine.governor.sample(asking) == (1.0, True)
    machine.governor.bucket.level = -1.0
    assert machine.governor.sample(asking) is None
    assert machine.governor.refused == 1


@given(st.text(max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_the_same_id_gives_the_same_answer_and_a_lower_rate_chooses_a_subset(id, one, other):
    low, high = sorted([one, other])

    def chosen(rate):
        governor = Governor(CaptureSettings(sample_rate=1.0), lambda: Spending(0.0, 0.0, 0.0), lambda: 0.0)
        governor.rate = rate
        return governor.sample(request(id)) is not None

    assert chosen(low) == chosen(low)
    assert chosen(low) <= chosen(high)


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 10), st.floats(1e-3, 10)), max_size=50))
def test_the_bucket_never_holds_more_than_a_quarter_second_earns_at_the_highest_pace(steps):
    bucket = TokenBucket()
    for pace, spent, seconds in steps:
        bucket.settle(pace * seconds, spent, seconds)
        assert bucket.level <= bucket.burst <= BURST_SECONDS * max(pace for pace, _, _ in steps) + 1e-12


@given(st.lists(st.floats(0, 0.1), min_size=1, max_size=200), st.floats(0.001, 0.1))
@settings(max_examples=50)
def test_what_a_bucket_lets_through_is_what_it_earned_and_one_cost(earnings, cost):
    bucket = TokenBucket()
    spent = 0.0
    for earned in earnings:
        bucket.settle(earned, 0.0, 0.01)
        if bucket.level >= 0:
            bucket.settle(0.0, cost, 0.0)
            spent += cost
    assert spent <= sum(earnings) + cost + 1e-9


def test_the_bucket_holds_the_budget_of_a_quarter_second_at_the_present_load():
    machine = Machine()
    machine.run(500)
    pace = machine.spent.inference / machine.now
    assert machine.governor.bucket.burst == pytest.approx(BURST_SECONDS * BUDGET * pace, rel=0.3)


def test_where_one_sample_costs_more_than_ten_seconds_earn_the_average_keeps_the_budget():
    machine = Machine(wake=5e-3, route_floor=0.0)
    machine.run(5, seconds=10_000.0)
    samples = np.count_nonzero(machine.weights[""])
    assert 100 < samples < 300
    assert sum(machine.spent[1:]) <= 1.1 * BUDGET * machine.spent.inference


def test_the_floor_is_observed_whatever_it_costs_and_no_more_than_that():
    machine = Machine(wake=0.5)
    machine.run(100, seconds=10.0)
    machine.weights.clear()
    machine.run(100, seconds=200.0)
    assert np.count_nonzero(machine.weights[""]) == pytest.approx(0.1 * 200, abs=8)


def test_a_flood_under_the_name_of_a_rare_route_is_not_observed_for_its_sake():
    machine = Machine(tap=20e-3)
    machine.run(500, seconds=60.0, routes=("", "rare"), shares=(0.999, 0.001))
    machine.governor.bucket.level = -1.0
    flood = [machine.governor.sample(request(f"f{i}", sidecar_route="rare")) for i in range(5_000)]
    assert sum(sample is not None for sample in flood) <= 2


def request(id, **parameters):
    return InferRequest(str(id), {}, 1, parameters)
