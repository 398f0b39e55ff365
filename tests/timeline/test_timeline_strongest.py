"""The strongest requests of a channel against those of everything that was seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.sketch import Peaks, Reading
from sidecar.timeline import Strongest, strongest
from sidecar.timeline.strongest import KEPT, Drivers, hashed
from sidecar.types import Tap

TAP = Tap(0, "resid", "blocks.0", 3)
WIDE = Tap(0, "resid", "blocks.0", 40)


def reading(ids, requests, values, at=5.0, tap=TAP):
    """values: of each channel, which stood in the request of that place in `ids`."""
    peaks = Peaks(np.array(requests, dtype=np.int32), np.array(values, dtype=np.float32))
    return Reading(at, {}, {}, len(ids), ids=ids, peaks={tap: peaks})


def of(kept, channel=0, tap=TAP):
    return kept.of(tap, channel, 10)


readings = st.lists(
    st.tuples(
        st.lists(st.sampled_from([f"r{number}" for number in range(30)]), min_size=1, max_size=4),
        st.lists(st.integers(-1, 3), min_size=3, max_size=3),
        st.lists(st.integers(-40, 40), min_size=3, max_size=3),
    ),
    max_size=60,
)


@given(readings)
def test_they_are_the_strongest_of_all_that_was_seen_each_request_once(given):
    kept = Strongest([TAP], "plain")
    best = [{} for _ in range(3)]
    kept.add(reading(["first"], [-1] * 3, [0] * 3))
    for ids, drawn, values in given:
        there = [place < len(ids) and value != 0 for place, value in zip(drawn, values, strict=True)]
        places = np.where(there, drawn, -1).tolist()
        kept.add(reading(ids, places, values))
        for channel, (place, value) in enumerate(zip(places, values, strict=True)):
            if place >= 0:
                id = ids[place]
                best[channel][id] = max(best[channel].get(id, 0), abs(value))
    for channel in range(3):
        found = of(kept, channel).requests
        sizes = [abs(one.value) for one in found]
        assert sizes == sorted(best[channel].values(), reverse=True)[:KEPT]
        assert all(best[channel][one.id] == abs(one.value) for one in found)


@pytest.mark.parametrize(("keep", "shown"), [("plain", "a"), ("hashed", hashed("a")), ("none", None)])
def test_a_request_is_named_as_the_settings_let_it_be_seen(keep, shown):
    kept = Strongest([TAP], keep)
    kept.add(reading(["a"], [0, -1, -1], [-2, 0, 0], at=7.0))
    (one,) = of(kept).requests
    assert one == (shown, -2.0, 7.0)


def test_requests_without_an_id_are_told_apart_and_have_no_name():
    kept = Strongest([TAP], "plain")
    for value in (1, 2):
        kept.add(reading([""], [0, 0, 0], [value] * 3))
    assert [(one.id, one.value) for one in of(kept).requests] == [(None, 2.0), (None, 1.0)]
    assert of(kept).alike == []


def test_channels_are_alike_that_share_their_strongest_requests():
    kept = Strongest([TAP], "hashed")
    for number in range(4):
        kept.add(reading([f"a{number}", f"b{number}"], [0, 0 if number else 1, 1], [1, 2, 3]))
    assert of(kept, 0).alike == [(1, 3)]


def test_a_tap_that_no_request_has_reached_has_no_strongest():
    kept = Strongest([TAP], "hashed")
    kept.add(Reading(5.0, {}, {}, 1, ids=["a"]))
    assert of(kept) == Drivers([], [])


def test_ids_that_no_channel_names_any_more_are_forgotten(monkeypatch):
    monkeypatch.setattr(strongest, "MOST_IDS", 100)
    kept = Strongest([WIDE], "plain")
    for number in range(500):
        kept.add(reading([f"r{number}"], [0] * 40, [number + 1] * 40, tap=WIDE))
    assert len(kept._ids) <= 100
    assert of(kept, 7, WIDE).requests[0].id == "r499"
    assert of(kept, 7, WIDE).requests[-1].id == "r492"
