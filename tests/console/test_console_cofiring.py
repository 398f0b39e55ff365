"""Channels that rise and fall together, asked of the API."""

from __future__ import annotations

import numpy as np
import pytest

from sidecar.sketch import TapSketch
from sidecar.timeline import Pane, Retention, Store, Subject
from sidecar.types import Tap
from tests.console.kept import NOW

TAP = Tap(0, "resid", "blocks.0", 64)
PANES = 150
BEGIN = NOW - 10.0 * PANES


def seen(rng):
    """Channels 3, 4 and 5 share half of their variance, 10 fires with 11, 20 never and 21 always does alike."""
    x = rng.standard_normal((60, 64)).astype(np.float32) + 1
    x[:, 3:6] += rng.standard_normal((60, 1)) * 1.0
    fires = rng.random(60) < 0.3
    x[:, 10:12] = fires[:, None] * (1 + rng.random((60, 2)))
    x[:, 20], x[:, 21] = 0, 2
    return x


@pytest.fixture(scope="session")
def kept_panes(tmp_path_factory):
    path = tmp_path_factory.mktemp("cofiring") / "panes.db"
    store, rng = Store(path, Retention(10.0, 7.0, 100.0)), np.random.default_rng(0)
    for number in range(PANES):
        sketch = TapSketch.from_array(seen(rng), 2.0**-10, 60)
        pane = Pane(BEGIN + 10 * number, 10.0, {TAP: sketch})
        store.write(Subject("digits", "1", (TAP,)), pane, {}, NOW)
    store.close()
    return path


async def test_channels_that_go_together_are_found_over_all_traffic(ask):
    answer = await ask("cofiring", layer=0, channels="3,4,50")
    assert (answer["panes"], answer["requests"]) == (PANES, 60 * PANES)
    found = {(one["channel"], one["other"]): one for one in answer["pairs"]}
    assert set(found) == {(3, 4), (3, 50), (4, 50)}
    assert abs(found[3, 4]["correlation"] - 0.5) < 4 * answer["error"]
    assert abs(found[3, 50]["correlation"]) < 4 * answer["error"]
    assert found[3, 4]["shared"] is None


async def test_a_list_may_come_as_several_fields(ask):
    assert (await ask("cofiring", layer=0, channels=[3, 4]))["channels"] == [3, 4]


async def test_others_are_those_that_go_with_each_by_more_than_chance(ask):
    assert [one["channel"] for one in (await ask("cofiring", layer=0, channels="3,4"))["others"]] == [5]
    assert {one["channel"] for one in (await ask("cofiring", layer=0, channels=3))["others"]} == {4, 5}
    assert (await ask("cofiring", layer=0, channels=50))["others"] == []


async def test_channels_that_fire_in_the_same_requests_are_found_by_their_rates(ask):
    (pair,) = (await ask("cofiring", layer=0, channels="10,11"))["pairs"]
    assert pair["firing"] > 0.99
    (pair,) = (await ask("cofiring", layer=0, channels="20,21"))["pairs"]
    assert (pair["firing"], pair["correlation"]) == (None, None)


async def test_few_panes_tell_nothing_and_say_so(ask):
    answer = await ask("cofiring", layer=0, channels="3,4", begin=BEGIN, end=BEGIN + 40)
    assert "too few neighbouring panes" in answer["detail"]
    assert answer["others"] == []


async def test_strongest_requests_that_two_channels_share_are_counted(driven, ask):
    pairs = (await ask("cofiring", driven(requests=25), layer=0, channels="3,4"))["pairs"]
    assert [one["shared"] for one in pairs] == [8]


async def test_of_few_requests_none_are_told_to_be_shared(driven, ask):
    pairs = (await ask("cofiring", driven(requests=19), layer=0, channels="3,4"))["pairs"]
    assert [one["shared"] for one in pairs] == [None]


async def test_how_large_a_channel_was_is_counted_exactly(ask):
    answer = await ask("neuron", layer=0, channel=10)
    told = answer["magnitudes"]
    assert sum(told.values()) == 60 * PANES
    assert told["between"] / (60 * PANES) == pytest.approx(0.3, abs=0.02)
    assert told["at_least_6"] == 0


@pytest.mark.parametrize(
    ("channels", "text"),
    [
        ("", "channels.0: input should be a valid integer"),
        ("3,3", "channels: channels must differ"),
        ("3,64", "channel 64 is none of tap 0/resid, which has 64"),
        ("-1", "greater than or equal to 0"),
        (",".join(map(str, range(17))), "at most 16 items"),
    ],
)
async def test_a_list_that_cannot_be_is_told_why(refused, channels, text):
    status, told = await refused("cofiring", layer=0, channels=channels)
    assert status == 400
    assert text in told
