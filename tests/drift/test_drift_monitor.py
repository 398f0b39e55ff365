import logging
import math
from dataclasses import replace

import numpy as np
import pytest

from sidecar.drift import DriftMonitor
from sidecar.errors import BaselineError
from sidecar.settings import DriftSettings
from sidecar.sketch import OutputRows, Reading, RequestRows
from sidecar.timeline import Timeline

REFERENCE = 600
SETTINGS = DriftSettings(reference_requests=REFERENCE, requests_between_false_alarms=10_000)


class Watch:
    """A monitor over traffic, whose reference is recorded from the first 600 requests."""

    def __init__(self, traffic, taps, reference=None, settings=SETTINGS):
        self.traffic = traffic
        self.timeline = Timeline(taps, 10.0, 60, traffic.clock)
        rng = np.random.default_rng(settings.seed)
        self.monitor = DriftMonitor("m", "1", taps, settings, self.timeline, reference, rng)

    def run(self, requests, **changes):
        for _ in range(requests // 20):
            self.feed(self.traffic.reading(20, **changes))
        return self.monitor.state()

    def feed(self, reading):
        self.timeline.add(reading)
        self.monitor.observe(reading)


@pytest.fixture
def watch(traffic, taps):
    watch = Watch(traffic, taps)
    watch.run(REFERENCE)
    return watch


def test_before_the_reference_is_ready_there_is_no_evidence_and_no_effect(traffic, taps):
    state = Watch(traffic, taps).run(40)
    assert (state.reference_requests, state.reference_ready, state.judged_requests) == (40, False, 0)
    assert state.model_evidence == 0
    for layer in state.layers:
        assert layer.evidence == 0
        effects = layer.effects
        assert all(map(math.isnan, (effects.psi, effects.frechet, effects.mean_shift, effects.times_level)))
        assert math.isnan(layer.instability.absmax_growth)
        assert layer.worst_channels == ()
        assert layer.instability.headroom["float16"] > 10


def test_the_state_says_what_its_effect_sizes_are_of(traffic, taps):
    state = Watch(traffic, taps).run(40)
    assert (state.window_seconds, state.window_requests) == (SETTINGS.window_seconds, 40)


def test_the_reading_that_completes_the_reference_is_not_judged(watch):
    state = watch.monitor.state()
    assert (state.reference_requests, state.reference_ready, state.judged_requests) == (REFERENCE, True, 0)


def test_stationary_traffic_raises_no_alarm(watch):
    state = watch.run(1_000)
    assert state.judged_requests == 1_000
    assert (state.model_alarms, [layer.alarms for layer in state.layers]) == (0, [0, 0, 0])
    assert all(
        abs(layer.effects.psi) < 0.05 and abs(layer.effects.mean_shift) < 0.2 for layer in state.layers
    )


def test_a_shift_is_found_and_its_layer_named(watch):
    watch.run(200)
    watch.traffic.at += 100
    state = watch.run(100, shifts={1: 0.6})
    assert [layer.alarms for layer in state.layers] == [0, 1, 0]
    assert [layer.active for layer in state.layers] == [False, True, False]
    assert state.model_active
    assert 200 < state.model_alarm_ordinals[0] <= state.layers[1].alarm_ordinals[0] <= 260
    assert state.layers[1].evidence >= state.layer_alarm_level > state.alarm_level
    assert state.layers[1].effects.mean_shift > 0.2
    assert len(state.layers[1].worst_channels) == 3


def test_the_alarm_ends_after_the_shift_does_and_with_it_the_cause(watch):
    assert watch.monitor.state().cause is None
    during = watch.run(60, shifts={1: 1.0})
    assert (during.cause.tap.layer, during.cause.kind) == (1, "covariate")
    state = watch.run(1_000)
    assert (state.model_alarms, state.model_active) == (1, False)
    assert state.cause is None


def test_a_route_among_the_others_of_the_reference_is_among_them_in_the_cause(traffic, taps):
    watch = Watch(traffic, taps)

    def run(routes, **changes):
        parameters = [{"sidecar_route": f"r{route:02}"} for route in routes]
        watch.feed(replace(traffic.reading(len(routes), **changes), parameters=parameters))

    run([*range(66)] * (REFERENCE // 66 + 1))
    watch.traffic.at += 100
    run([65] * 60, shifts={1: 1.0})
    assert watch.monitor.state().cause.groups[0].group == "others"


def test_the_shares_of_predicted_classes_are_told_beside_those_of_the_reference(traffic, taps):
    watch = Watch(traffic, taps)

    def run(predicted):
        logits = np.eye(2)[predicted] + traffic.rng.normal(size=(len(predicted), 2))
        outputs = OutputRows(logits[:, 0], logits[:, 1], np.array(predicted), logits)
        watch.feed(replace(traffic.reading(len(predicted)), outputs=outputs))

    assert watch.monitor.state().output is None
    run([0, 0, 1, 1] * (REFERENCE // 4))
    watch.traffic.at += 100
    run([0, 1, 1, 1] * 5)
    shares = {one.name: one.window for one in watch.monitor.state().output.shares}
    assert shares == {"0": 0.25, "1": 0.75, "others": 0.0}


def test_one_request_with_a_nan_is_seen(watch):
    before = watch.monitor.state()

    def break_one(tap, values):
        if tap == 2:
            values[0, 0, 0] = np.nan

    watch.feed(watch.traffic.reading(1, edit=break_one))
    state = watch.monitor.state()
    assert [layer.instability.nonfinite for layer in state.layers] == [0, 0, 1]
    assert state.layers[2].evidence > before.layers[2].evidence + 2
    assert np.argmax([layer.evidence for layer in state.layers]) == 2


def test_requests_with_nans_alarm_within_ten(watch):
    def break_all(tap, values):
        if tap == 2:
            values[:, 0, 0] = np.nan

    watch.feed(watch.traffic.reading(10, edit=break_all))
    assert [layer.active for layer in watch.monitor.state().layers] == [False, False, True]


def test_the_same_seed_gives_the_same_evidence(make_traffic, taps):
    states = [Watch(make_traffic(seed=5), taps).run(700) for _ in range(2)]
    assert states[0] == states[1]


def test_a_reading_without_requests_changes_no_evidence(watch):
    before = watch.run(100)
    watch.traffic.at += 100
    watch.feed(Reading(watch.traffic.at, {}, {}, 0))
    after = watch.monitor.state()
    assert after.model_evidence == before.model_evidence
    assert after.layers[0].evidence == before.layers[0].evidence
    assert math.isnan(after.layers[0].effects.psi)


def test_a_given_reference_judges_from_the_first_request_in_any_order_of_taps(traffic, taps):
    recorder = Watch(traffic, taps)
    recorder.run(REFERENCE, shifts={0: 5.0})
    watch = Watch(traffic, taps[::-1], reference=recorder.monitor.reference)
    state = watch.run(100, shifts={0: 5.0})
    assert (state.judged_requests, state.model_alarms) == (100, 0)
    state = watch.run(60, shifts={0: 5.0, 2: 2.0})
    assert [layer.tap.layer for layer in state.layers if layer.active] == [2]


def test_a_reference_of_another_model_is_refused(watch, taps):
    timeline = Timeline(taps, 10.0, 60, watch.traffic.clock)
    with pytest.raises(BaselineError, match="recorded from model m"):
        DriftMonitor(
            "other", "1", taps, SETTINGS, timeline, watch.monitor.reference, np.random.default_rng(0)
        )


def test_a_small_reference_is_said(traffic, taps, caplog):
    with caplog.at_level(logging.WARNING):
        state = Watch(traffic, taps).run(REFERENCE)
    assert "has 600 requests" in caplog.text
    assert state.reference_small


def test_a_state_once_handed_out_does_not_change(watch):
    before = watch.monitor.state()
    layers = before.layers
    watch.run(100, shifts={0: 2.0})
    assert before.judged_requests == 0
    assert before.layers is layers
    assert not before.layers[0].active


EVEN = (20, 2, np.ones(20), np.ones(20, dtype=bool))
LIFTED = (38, 20, np.repeat([1.0, 10.0], [20, 18]), np.repeat([True, False, True], [2, 18, 18]))


@pytest.mark.parametrize(("first", "then"), [(EVEN, LIFTED), (LIFTED, EVEN)], ids=["later", "before"])
def test_a_rare_route_that_is_sampled_more_than_the_rest_looks_like_no_drift(traffic, taps, first, then):
    """One request in ten is of a rare kind. The rate is 1 for all, or a tenth for all but these."""

    def mixed(requests, rare, weights, common):
        def edit(_, values):
            values[:rare] += 3.0

        reading = traffic.reading(requests, edit=edit)
        rows = {tap: RequestRows(part.values, weights, common) for tap, part in reading.rows.items()}
        return replace(reading, rows=rows)

    watch = Watch(traffic, taps)
    for _ in range(REFERENCE // 20):
        watch.feed(mixed(*first))
    assert watch.monitor.state().reference_ready
    traffic.at += 100.0
    for _ in range(40):
        watch.feed(mixed(*then))
    state = watch.monitor.state()
    assert state.judged_requests == 40 * 20
    assert not state.model_alarms
    assert all(abs(layer.effects.mean_shift) < 0.3 for layer in state.layers)


def test_a_snapshot_is_the_window_as_a_baseline(watch, taps):
    watch.traffic.at += 1_000
    watch.run(40)
    found = watch.monitor.snapshot()
    assert (found.model, found.version, found.taps, found.requests) == ("m", "1", taps, 40)
    assert [sketch.counts.requests for sketch in found.sketches] == [40] * 3
    assert found.rows.shape == (3, 40, 6)
    assert found.nodrift == watch.monitor.reference.nodrift


def test_without_requests_in_the_window_there_is_no_snapshot(watch):
    watch.traffic.at += 1_000
    with pytest.raises(BaselineError, match="no request of m version 1 was observed in the last 60 s"):
        watch.monitor.snapshot()
