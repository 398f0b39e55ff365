from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import SketchError
from sidecar.sketch import Reading, RequestRows, TapSketch
from sidecar.timeline import MAX_ROWS, Timeline
from sidecar.types import Tap

TAP = Tap(0, "resid", "blocks.0", 3)
PANE = 10.0


def reading(at, value=1.0, rows=1):
    sketch = TapSketch.from_array(np.full((2, 3), value, dtype=np.float32), 2.0**-10, rows)
    return Reading(at, {TAP: sketch}, {TAP: RequestRows(np.full((rows, 6), value))}, rows)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def timeline(clock):
    return Timeline([TAP], PANE, 6, clock)


def positions(timeline, seconds):
    return timeline.window(seconds, TAP).counts.positions


@given(st.lists(st.floats(0, 8), min_size=1, max_size=30), st.floats(0.1, 100))
def test_any_window_is_the_merge_of_the_readings_in_its_panes(steps, seconds):
    clock = Clock()
    timeline = Timeline([TAP], PANE, 1000, clock)
    times = 1000 + np.cumsum(steps)
    for value, at in enumerate(times):
        clock.now = at
        timeline.add(reading(at, value=value % 5 - 2))
        timeline.window(seconds, TAP)  # What it keeps of closed panes must not outlive them.
    expected = TapSketch.empty(3)
    for value, at in enumerate(times):
        if at // PANE * PANE + PANE > clock.now - seconds:
            expected.merge(reading(at, value=value % 5 - 2).sketches[TAP])
    seen = timeline.window(seconds, TAP)
    assert seen.counts == expected.counts
    assert np.array_equal(seen.histogram.counts, expected.histogram.counts)
    assert np.array_equal(seen.channels.total, expected.channels.total)
    assert seen.moments.m2 == pytest.approx(expected.moments.m2, rel=1e-12, abs=1e-12)
    assert len(timeline.rows(seconds, TAP)) == expected.counts.requests


@given(st.lists(st.floats(0, 10_000), min_size=1, max_size=40))
def test_a_clock_that_jumps_anywhere_loses_nothing_from_the_total(times):
    clock = Clock()
    timeline = Timeline([TAP], PANE, 6, clock)
    previous = 0
    for at in times:
        clock.now = at
        timeline.add(reading(at))
        assert positions(timeline, 60) >= 2
        assert timeline.total(TAP).counts.positions == previous + 2
        previous += 2


def test_after_the_clock_is_set_back_windows_go_on(timeline, clock):
    timeline.add(reading(5000.0))
    for at in (1000.0, 1011.0, 1022.0):
        clock.now = at
        timeline.add(reading(at))
    assert positions(timeline, 1) == 2
    assert positions(timeline, 60) == 8


def test_a_nudged_clock_stays_in_its_pane(timeline, clock):
    timeline.add(reading(1009.0))
    timeline.add(reading(1008.0))
    clock.now = 1012.0
    assert positions(timeline, 1) == 0
    assert positions(timeline, 3) == 4


def test_a_reading_leaves_the_window_with_its_pane(timeline, clock):
    timeline.add(reading(1003.0))
    clock.now = 1009.0 + 60
    assert positions(timeline, 60) == 2
    clock.now = 1010.0 + 60
    assert positions(timeline, 60) == 0


def test_no_more_panes_are_kept_than_asked_for(timeline, clock):
    for pane in range(9):
        timeline.add(reading(1000.0 + PANE * pane))
    clock.now = 1080.0
    assert positions(timeline, 1e6) == 6 * 2
    assert timeline.total(TAP).counts.positions == 9 * 2


def test_the_newest_request_rows_are_kept(timeline, clock):
    for value in range(4):
        timeline.add(reading(1000.0, value=value, rows=MAX_ROWS // 2))
    clock.now = 1000.0
    kept = timeline.rows(60, TAP)
    assert len(kept) == MAX_ROWS
    assert set(kept.mean) == {2, 3}


def test_a_reading_is_left_as_it_was(timeline):
    first = reading(1000.0)
    timeline.add(first)
    timeline.add(reading(1001.0))
    assert first.sketches[TAP] == reading(1000.0).sketches[TAP]


def test_what_it_hands_out_is_nobody_elses(timeline, clock):
    clock.now = 1000.0
    timeline.add(reading(1000.0))
    timeline.window(60, TAP).merge(reading(0).sketches[TAP])
    timeline.total(TAP).merge(reading(0).sketches[TAP])
    assert positions(timeline, 60) == timeline.total(TAP).counts.positions == 2


def test_a_reading_without_requests_adds_nothing(timeline, clock):
    timeline.add(Reading(1000.0, {}, {}, 0))
    clock.now = 1000.0
    assert positions(timeline, 60) == 0
    assert len(timeline.rows(60, TAP)) == 0


def test_a_tap_that_is_not_watched_is_refused_before_anything_is_added(timeline):
    other = Tap(1, "resid", "blocks.1", 3)
    sketches = {TAP: TapSketch.empty(3), other: TapSketch.empty(3)}
    with pytest.raises(SketchError, match="tap 1/resid with 3 channels is not watched"):
        timeline.add(Reading(0.0, sketches, {}, 0))
    with pytest.raises(SketchError, match="4 channels"):
        timeline.add(Reading(0.0, {TAP: TapSketch.empty(4)}, {}, 0))


def test_rows_of_a_window_keep_the_weights_they_came_with(timeline, clock):
    for weight in (2.0, 5.0):
        one = reading(clock.now)
        timeline.add(replace(one, rows={TAP: RequestRows(np.zeros((1, 6)), np.array([weight]))}))
    assert timeline.rows(PANE, TAP).weights.tolist() == [2.0, 5.0]


@given(st.lists(st.floats(0, 8), min_size=1, max_size=20), st.floats(1, 60))
def test_a_window_and_the_one_before_it_share_nothing_and_leave_nothing_out(steps, seconds):
    clock = Clock()
    timeline = Timeline([TAP], PANE, 1000, clock)
    times = 1000 + np.cumsum(steps)
    for at in times:
        timeline.add(reading(at))
    clock.now = times[-1]
    both = timeline.window(2 * seconds, TAP).counts.requests
    now, before = timeline.window(seconds, TAP), timeline.window(seconds, TAP, ago=seconds)
    assert now.counts.requests + before.counts.requests == both


def test_distinct_requests_are_counted_over_the_panes_of_a_window(timeline, clock):
    for at, values in ((0.0, [1, 1, 2]), (50.0, [2, 3, 3])):
        clock.now = at
        one = reading(at, rows=3)
        timeline.add(replace(one, rows={TAP: RequestRows(np.outer(values, np.ones(6)))}))
    assert round(timeline.distinct(PANE, TAP).estimate) == 2
    assert round(timeline.distinct(100.0, TAP).estimate) == 3


def test_requests_of_one_firing_pattern_are_one_where_projections_are_taken(timeline):
    projections = np.outer([1, 2, -1], np.ones(32)).astype(np.float32)
    rows = RequestRows(np.outer([1, 2, 3], np.ones(6)), projections=projections)
    timeline.add(replace(reading(0.0, rows=3), rows={TAP: rows}))
    assert round(timeline.distinct(PANE, TAP).estimate) == 2


def test_a_request_that_missed_a_tap_does_not_look_like_anything(timeline):
    rows = np.vstack([np.ones(6), np.full(6, np.nan)])
    timeline.add(replace(reading(0.0, rows=2), rows={TAP: RequestRows(rows)}))
    assert round(timeline.distinct(PANE, TAP).estimate) == 1


def test_readings_keep_what_is_known_of_their_requests_and_no_sketches(timeline):
    timeline.add(replace(reading(0.0), ids=("a",), parameters=({"sidecar_route": "x"},)))
    (kept,) = timeline.readings(PANE)
    assert (kept.ids, kept.parameters, kept.sketches) == (("a",), ({"sidecar_route": "x"},), {})
