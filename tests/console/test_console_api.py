"""The API over HTTP, on a store of known panes."""

import math
import sqlite3
from contextlib import closing
from dataclasses import replace

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from sidecar.console.api import Api, Sources
from sidecar.console.budget import BURST_SECONDS
from sidecar.settings import ConsoleSettings
from sidecar.timeline import History
from sidecar.timeline.statistics import STATISTICS
from tests.console.kept import CHANNELS, FREE, NOW, START, STEPS, elsewhere, values, whole


async def test_the_taps_of_every_model_are_listed_with_what_is_kept(ask):
    answer = await ask("taps")
    found = {(one["model"], one["version"]): one for one in answer["models"]}
    assert set(found) == {("digits", "1"), ("digits", "2"), ("rare", "1")}
    digits = found["digits", "1"]
    assert (digits["first"], digits["last"], digits["steps"]) == (START, NOW, list(STEPS))
    assert digits["taps"][1] == {
        "layer": 1,
        "site": "resid",
        "module": "<img onerror=x>",
        "channels": CHANNELS,
    }
    assert {one["name"] for one in answer["statistics"]} == set(STATISTICS)
    assert next(one["gaussian"] for one in answer["statistics"] if one["name"] == "kurtosis") == 3


async def test_a_layer_is_shown_channel_by_channel_over_the_range(ask):
    answer = await ask("layer", layer=1, begin=START, end=NOW)
    x = whole(1).astype(np.float64)
    assert answer["positions"] == answer["covered"]["requests"] == 150
    assert answer["covered"]["panes"] == 1
    shown = answer["channels"]
    assert shown["mean"] == pytest.approx(x.mean(axis=0), rel=2**-12, abs=1e-4)
    assert shown["rms"] == pytest.approx(np.sqrt((x**2).mean(axis=0)), rel=2**-7)
    assert shown["absmax"] == pytest.approx(np.abs(x).max(axis=0), rel=2**-7)
    assert shown["fire_rate"] == pytest.approx((np.abs(x) > 2**-10).mean(axis=0))
    assert shown["outliers"] == np.count_nonzero(np.abs(x) >= 6, axis=0).tolist()
    assert answer["statistics"]["kurtosis"] == pytest.approx(
        ((x - x.mean()) ** 4).mean() / x.var() ** 2, rel=1e-6
    )
    assert answer["reference"] is None


async def test_spikes_are_told_with_index_and_sign_largest_first(ask):
    spikes = (await ask("layer", layer=0, spikes=3))["spikes"]
    assert {one["channel"] for one in spikes[:3]} == {7, 40, 9}
    signs = {one["channel"]: math.copysign(1, one["mean"]) for one in spikes}
    assert (signs[7], signs[40]) == (1, -1)
    sizes = [abs(one["sigmas"]) for one in spikes]
    assert sizes == sorted(sizes, reverse=True)


async def test_without_a_range_the_last_ten_minutes_are_meant(ask):
    assert (await ask("layer", layer=0))["covered"]["requests"] == 150


async def test_a_step_is_a_range_of_its_own(ask):
    answer = await ask("layer", layer=0, step=20_000)
    assert (answer["covered"]["step"], answer["covered"]["begin"]) == (20_000, None)
    assert answer["covered"]["requests"] == 26


@pytest.mark.parametrize("per_octave", [1, 2, 4, 8])
async def test_a_histogram_counts_every_value_once_in_cells_that_rise(ask, per_octave):
    answer = await ask("histogram", layer=0, per_octave=per_octave)
    x = whole(0)
    lower, upper, count = (np.array(answer[name]) for name in ("lower", "upper", "count"))
    assert count.sum() == answer["total"] == x.size
    assert np.all(lower[1:] >= upper[:-1] - 1e-5 * np.abs(upper[:-1]))
    (zeros,) = count[(lower == 0) & (upper == 0)]
    assert zeros == np.count_nonzero(x == 0)
    inside = (upper > 0) & (upper < 1000)
    edge = upper[inside][-1]
    assert count[upper <= edge].sum() == pytest.approx(np.count_nonzero(x <= edge), abs=x.size / 100)
    assert answer["quantiles"]["p50"] == pytest.approx(np.median(x), abs=0.1)


async def test_coarser_cells_are_fewer(ask):
    cells = [len((await ask("histogram", layer=0, per_octave=n))["count"]) for n in (1, 2, 4, 8)]
    assert cells == sorted(cells)
    assert cells[0] < cells[-1]


ALWAYS_ON = set(np.flatnonzero(np.all(np.abs(whole(0)) > 2**-10, axis=0)).tolist())


@pytest.mark.parametrize(
    ("given", "channels"),
    [
        ({"filter": "dead"}, {3}),
        ({"filter": "always_on"}, ALWAYS_ON),
        ({"filter": "massive"}, {9}),
        ({"filter": "saturated", "bound": 22}, {7, 40, 9}),
        ({"order": "absmax", "limit": 3}, {9, 7, 40}),
        ({"order": "channel", "offset": 62}, {62, 63}),
    ],
)
async def test_neurons_are_filtered_and_ordered(ask, given, channels):
    answer = await ask("neurons", layer=0, **given)
    assert {one["channel"] for one in answer["neurons"]} == channels
    assert answer["rate_bound"] == pytest.approx(3 / 150)


async def test_pages_join_to_the_whole_list_without_overlap(ask):
    seen, offset = [], 0
    while offset is not None:
        page = await ask("neurons", layer=0, order="rms", limit=10, offset=offset)
        seen += [one["channel"] for one in page["neurons"]]
        offset = page["next_offset"]
    assert sorted(seen) == list(range(CHANNELS))
    assert page["total"] == CHANNELS


async def test_a_neuron_has_a_course_over_time(ask):
    answer = await ask("neuron", layer=0, channel=7)
    assert answer["start"] == [START + 10 * i for i in range(6)]
    expected = [values(start, 0)[:, 7].mean() for start in answer["start"]]
    assert answer["mean"] == pytest.approx(expected, rel=2**-12)
    assert answer["fire_rate"] == [1.0] * 6
    assert answer["distribution"]["mean"][0] == pytest.approx(min(answer["mean"]))


async def test_a_neuron_has_a_course_over_steps(ask):
    answer = await ask("neuron", layer=0, channel=7, axis="step")
    assert (answer["start"], answer["seconds"]) == (list(STEPS), [0, 0, 0])


@pytest.mark.parametrize("statistic", sorted(STATISTICS))
async def test_any_statistic_has_a_matrix_of_layers_against_time(ask, statistic):
    answer = await ask("matrix", statistic=statistic)
    assert [row["layer"] for row in answer["rows"]] == [0, 1]
    assert len(answer["values"]) == 2
    assert {len(row) for row in answer["values"]} == {len(answer["start"])} == {6}
    assert all(value is not None for row in answer["values"] for value in row)


async def test_the_peak_of_a_matrix_is_marked(ask):
    answer = await ask("matrix", statistic="evidence")
    assert answer["values"] == [[0, 1, 2, 3, 4, 5], [0, 10, 20, 30, 40, 50]]
    assert answer["peak"] == {"row": 1, "column": 5, "value": 50}
    assert answer["row_peaks"] == [5, 5]


async def test_a_matrix_of_layers_against_steps_is_in_the_steps_order(ask):
    answer = await ask("matrix", statistic="rms", axis="step")
    assert answer["start"] == list(STEPS)
    x = values(30_000, 1, 27).astype(np.float64)
    assert answer["values"][1][2] == pytest.approx(np.sqrt((x**2).mean()), rel=1e-5)


async def test_a_matrix_has_no_more_columns_than_asked_for(ask):
    assert len((await ask("matrix", statistic="rms", columns=2))["start"]) <= 2


async def test_two_versions_are_compared_layer_by_layer(ask):
    answer = await ask("compare", model="digits", version="1", other_version="2")
    assert [one["tap"]["layer"] for one in answer["layers"]] == [0, 1]
    assert answer["right"]["version"] == "2"
    for layer in answer["layers"]:
        assert layer["left"]["requests"] == 150
        assert layer["right"]["requests"] == 25
        assert abs(layer["jensen_shannon"]) < 0.05


async def test_what_compared_ranges_differ_by_without_drift_comes_from_their_panes(ask):
    for sides, side in (
        ({"version": "1", "other_version": "2"}, "left"),
        ({"version": "2", "other_version": "1"}, "right"),
    ):
        for layer in (await ask("compare", model="digits", **sides))["layers"]:
            assert layer["no_drift_from"] == side
            assert set(layer["no_drift"]) == {"psi", "jensen_shannon", "kolmogorov_smirnov", "wasserstein"}
            assert (layer["levels"], layer["times_level"]) == ({}, None)


async def test_requests_of_both_ranges_count_for_what_they_differ_by_without_drift(ask):
    half = {"begin": START, "end": START + 30}
    (whole, *_) = (
        await ask("compare", other_begin=half["begin"], other_end=half["end"], begin=START, end=NOW)
    )["layers"]
    (apart, *_) = (await ask("compare", **half, other_begin=START + 30, other_end=NOW))["layers"]
    scaled = [one["no_drift"]["psi"] / rate for one, rate in ((whole, 1 / 75 - 1 / 150), (apart, 2 / 75))]
    assert scaled[0] == pytest.approx(scaled[1], rel=0.5)


async def test_two_steps_are_compared(ask):
    answer = await ask("compare", step=10_000, other_step=30_000)
    assert (answer["left"]["step"], answer["right"]["step"]) == (10_000, 30_000)


async def test_nothing_is_subtracted_from_what_two_steps_differ_by(ask):
    for layer in (await ask("compare", step=10_000, other_step=30_000))["layers"]:
        assert (layer["no_drift"], layer["no_drift_from"], layer["times_level"]) == ({}, "", None)
        assert layer["psi"] > 0


async def test_an_aggregate_of_few_requests_is_withheld(refused):
    for method, given in {
        "layer": {"layer": 0},
        "histogram": {"layer": 0},
        "neurons": {"layer": 0},
        "compare": {"other_model": "digits", "other_version": "1"},
    }.items():
        status, text = await refused(method, model="rare", **given)
        assert status == 403
        assert "3 requests were observed there, console.min_requests is 20" in text


async def test_panes_of_few_requests_are_blank(ask):
    matrix = await ask("matrix", model="rare", statistic="rms")
    assert (matrix["values"], matrix["peak"], matrix["row_peaks"]) == ([[None], [None]], None, [None, None])
    assert (await ask("neuron", model="rare", layer=0, channel=1))["mean"] == [None]


async def test_they_are_shown_where_the_settings_allow_it(ask):
    settings = ConsoleSettings(min_requests=1, budget=64.0)
    answer = await ask("layer", settings=settings, model="rare", layer=0)
    assert answer["covered"]["requests"] == 3


@pytest.mark.parametrize(
    ("method", "given", "status", "text"),
    [
        ("layer", {}, 400, "layer is missing and must be given"),
        ("layer", {"layer": "x"}, 400, "layer: input should be a valid integer"),
        ("layer", {"layer": -1}, 400, "greater than or equal to 0"),
        ("layer", {"layer": 9}, 400, "there is no tap in layer 9 with site ''; there are 0/resid, 1/resid"),
        ("layer", {"layer": 0, "colour": "red"}, 400, "colour is no field of this question"),
        ("layer", {"layer": 0, "begin": 5, "end": 4}, 400, "begin must lie before end"),
        ("layer", {"layer": 0, "begin": "nan"}, 400, "finite number"),
        ("layer", {"layer": 0, "step": 5, "end": 4}, 400, "give either step, or begin and end"),
        ("layer", {"layer": 0, "step": 5}, 400, "step 5 is not kept; there is 10000, 20000, 30000"),
        ("layer", {"layer": 0, "model": "x" * 999}, 400, "at most 200 characters"),
        ("layer", {"layer": 0, "model": "nope"}, 404, "nothing is known of model 'nope' version ''"),
        ("neuron", {"layer": 0, "channel": 64}, 400, "channel 64 is none of tap 0/resid, which has 64"),
        ("neuron", {"layer": 0, "channel": 1, "points": 100_000}, 400, "less than or equal to 1000"),
        ("neurons", {"layer": 0, "filter": "saturated"}, 400, "filter saturated needs bound"),
        ("neurons", {"layer": 0, "limit": 5000}, 400, "less than or equal to 1000"),
        ("matrix", {"statistic": "nope"}, 400, "should be 'mean', 'stddev'"),
        ("histogram", {"layer": 0, "per_octave": 3}, 400, "per_octave must be 1, 2, 4 or 8"),
        ("compare", {}, 400, "the two sides are the same"),
    ],
)  # fmt: skip
async def test_a_question_that_cannot_be_answered_is_told_why(refused, method, given, status, text):
    found = await refused(method, **given)
    assert found[0] == status
    assert text in found[1]


async def test_answers_are_refused_when_they_have_taken_their_budget(kept_panes):
    now = [0.0]
    api = Api(
        Sources(History(kept_panes, dict), [], None, elsewhere()),
        ConsoleSettings(budget=0.5),
        lambda: NOW,
        lambda: now[0],
    )
    api.budget.charge(BURST_SECONDS + 1)
    transport = httpx.ASGITransport(app=Starlette(routes=api.routes()))
    async with httpx.AsyncClient(transport=transport, base_url="http://sidecar/api/v1/") as http:
        reply = await http.get("taps")
        now[0] = 2.5
        later = await http.get("taps")
    api.close()
    assert (reply.status_code, reply.headers["retry-after"], later.status_code) == (429, "1", 200)
    assert "answers have taken console.budget; try again in 3 s" in reply.text


async def test_a_damaged_store_is_told_and_what_is_in_memory_is_shown(tmp_path):
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"nothing of the kind" * 500)
    told = []
    api = Api(
        Sources(History(broken, dict, told.append), [], None, elsewhere()),
        ConsoleSettings(),
        lambda: NOW,
        lambda: 0.0,
    )
    transport = httpx.ASGITransport(app=Starlette(routes=api.routes()))
    async with httpx.AsyncClient(transport=transport, base_url="http://sidecar/api/v1/") as http:
        reply = await http.get("taps")
    api.close()
    assert (reply.status_code, reply.json()["models"], len(told)) == (200, [], 1)


async def test_a_pane_that_is_damaged_is_told_and_nothing_of_the_inside(tmp_path, kept_panes):
    broken = tmp_path / "broken.db"
    with closing(sqlite3.connect(kept_panes)) as source, closing(sqlite3.connect(broken)) as target:
        source.backup(target)
        target.execute("UPDATE sketch SET body = zeroblob(100)")
        target.commit()
    told = []
    api = Api(
        Sources(History(broken, dict, told.append), [], None, elsewhere()), FREE, lambda: NOW, lambda: 0.0
    )
    transport = httpx.ASGITransport(app=Starlette(routes=api.routes()))
    async with httpx.AsyncClient(transport=transport, base_url="http://sidecar/api/v1/") as http:
        reply = await http.get("layer", params={"layer": 0})
    api.close()
    assert (reply.status_code, len(told)) == (503, 1)
    assert "broken" not in reply.text


async def test_what_is_live_is_answered_without_a_store(fixed_model):
    timelines = {("digits", "1"): fixed_model.timeline}
    api = Api(
        Sources(History(None, lambda: timelines), [fixed_model], None, elsewhere()),
        ConsoleSettings(min_requests=1),
        lambda: NOW,
        lambda: 0.0,
    )
    transport = httpx.ASGITransport(app=Starlette(routes=api.routes()))
    async with httpx.AsyncClient(transport=transport, base_url="http://sidecar/api/v1/") as http:
        layer = (await http.get("layer", params={"layer": 1, "begin": 0})).json()
        matrix = (await http.get("matrix", params={"statistic": "absmax"})).json()
    api.close()
    assert layer["covered"]["requests"] == 3
    assert matrix["values"] == [[8], [8], [8]]


async def test_drift_over_few_requests_tells_evidence_and_where_and_no_sizes(ask, fixed_model):
    state = (await ask("drift", fixed_model))["state"]
    layer = state["layers"][1]
    assert (layer["evidence"], layer["active"], layer["requests"]) == (3.5, True, 3)
    assert (layer["effects"]["psi"], layer["worst_channels"], layer["shifted_statistic"]) == (None, [], "")
    assert layer["instability"]["headroom"]["float16"] is None
    assert layer["between"]["effective_rank"] is None
    assert state["cause"]["sentence"] == "drift begins at layer 1 (resid)"
    assert state["output"]["shares"] == []
    assert (state["cause"]["channels"], state["cause"]["requests"], state["cause"]["groups"]) == ([], [], [])


async def test_drift_over_enough_requests_tells_everything(ask, fixed_model):
    kept = fixed_model.monitor.state()
    fixed_model.monitor._state = replace(
        kept, layers=tuple(replace(layer, requests=20) for layer in kept.layers)
    )
    state = (await ask("drift", fixed_model))["state"]
    assert state["layers"][1]["effects"]["psi"] == 0.125
    assert state["cause"]["channels"] == [[3, -4.5]]


async def test_drift_and_baselines_are_those_of_the_monitor(ask, fixed_model):
    drift = await ask("drift", fixed_model)
    assert [layer["evidence"] for layer in drift["state"]["layers"]] == [2.5, 3.5, 4.5]
    assert drift["state"]["model_evidence"] == 1.25
    (baseline,) = (await ask("baselines", fixed_model))["baselines"]
    assert (baseline["complete"], baseline["requests"]) == (False, 5000)


async def test_a_model_of_the_past_has_no_drift(ask):
    assert (await ask("drift", model="rare"))["state"] is None


async def test_a_served_model_comes_before_those_of_the_past(ask, fixed_model):
    served = replace(fixed_model, model="rare")
    assert (await ask("matrix", served, statistic="rms"))["model"] == "rare"
