"""What drives a neuron, over the API: requests by name, inputs as they are, and what is withheld."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from sidecar.console.api import Api, Sources
from sidecar.settings import ConsoleSettings
from sidecar.timeline import History
from sidecar.timeline.strongest import hashed
from tests.console.driven import REQUESTS, Inputs, text, tokens
from tests.console.kept import NOW, elsewhere

UNIT = {"layer": 0, "channel": 7}


async def test_the_strongest_requests_are_told_with_sign_and_time(ask, driven):
    answer = await ask("drivers", driven(keep="plain"), **UNIT)
    assert [(one["id"], one["value"]) for one in answer["requests"][:2]] == [("r24", -31), ("r23", -30)]
    assert len(answer["requests"]) == 8
    assert answer["observed"] == REQUESTS
    assert [one["shared"] for one in answer["alike"]] == [8] * 10


@pytest.mark.parametrize(("keep", "shown"), [("hashed", hashed("r24")), ("none", None)])
async def test_requests_and_inputs_are_named_as_the_settings_let_them_be_seen(ask, driven, keep, shown):
    model = driven(Inputs(), keep)
    for method, listed in (("drivers", "requests"), ("inputs", "inputs")):
        answer = await ask(method, model, **UNIT)
        assert answer[listed][0]["id"] == shown


@pytest.mark.parametrize("method", ["drivers", "inputs"])
async def test_of_a_version_that_is_not_served_nothing_is_known(ask, method):
    assert "not observed now" in (await ask(method, **UNIT))["detail"]


@pytest.mark.parametrize("method", ["drivers", "inputs"])
async def test_a_channel_that_is_not_there_is_named(refused, method):
    status, error = await refused(method, layer=0, channel=64)
    assert (status, error) == (400, "channel 64 is none of tap 0/resid, which has 64")


async def test_inputs_come_with_the_values_of_the_unit_the_largest_first(ask, driven):
    answer = await ask("inputs", driven(Inputs()), **UNIT)
    assert (answer["kept"], answer["rerun"], answer["passed_over"]) == (REQUESTS, REQUESTS, 2)
    assert [one["peak"] for one in answer["inputs"]] == pytest.approx([24.07 - i for i in range(8)])
    first = answer["inputs"][0]
    assert first["positions"] == pytest.approx([0, 0, 0, 24.07])
    (shown,) = first["tensors"]
    assert (shown["name"], shown["shape"], shown["pieces"]) == ("image", [64], [])
    assert shown["numbers"] == pytest.approx(np.linspace(0, 24, 64), rel=1e-5)


async def test_the_histogram_is_of_all_values_and_the_quantiles_are_exact(ask, driven):
    answer = (await ask("inputs", driven(Inputs()), per_octave=1, **UNIT))["histogram"]
    assert sum(answer["count"]) == answer["total"] == REQUESTS * 4
    zero = answer["lower"].index(0)
    assert (answer["upper"][zero], answer["count"][zero]) == (0, REQUESTS * 3)
    assert answer["quantiles"]["p99"] == pytest.approx(23.08, abs=0.01)


async def test_units_that_go_with_it_are_told_with_correlation_and_lift(ask, driven):
    together = (await ask("inputs", driven(Inputs()), **UNIT))["together"]
    assert len(together) == 10
    assert 7 not in [one["channel"] for one in together]
    assert all(one["correlation"] > 0.99 for one in together)
    assert all((one["fires"], one["both"], one["lift"]) == (1, 1, 1) for one in together)


async def test_token_ids_come_as_the_words_that_are_known(ask, driven):
    answer = await ask("inputs", driven(Inputs(tokens)), **UNIT)
    ids, mask = answer["inputs"][0]["tensors"]
    assert ids["pieces"] == [" twenty", "-four", "26", "27"]
    assert mask["pieces"] == ["1"] * 4


async def test_a_string_of_a_byte_a_position_comes_in_its_bytes(ask, driven):
    answer = await ask("inputs", driven(Inputs(text)), **UNIT)
    assert answer["inputs"][0]["tensors"][0]["pieces"] == ["<", "b", ">", "!"]


async def test_few_requests_and_few_inputs_are_withheld(questioned, driven):
    async with questioned(driven(Inputs(count=5), requests=19)) as http:
        drivers, inputs = [await http.get(path, params=UNIT) for path in ("drivers", "inputs")]
    assert (drivers.status_code, inputs.status_code) == (403, 403)
    assert "19 requests were observed there, console.min_requests is 20" in drivers.text
    assert "5 inputs are kept, console.min_requests is 20" in inputs.text


async def test_before_the_first_input_it_says_that_there_is_none(ask, driven):
    answer = await ask("inputs", driven(Inputs(count=0)), **UNIT)
    assert answer["detail"].startswith("no inputs are kept so far")
    assert answer["passed_over"] == 2


async def test_inputs_that_cannot_be_run_again_are_left_out(ask, driven):
    answer = await ask("inputs", driven(Inputs(broken=(24, 3))), **UNIT)
    assert (answer["kept"], answer["rerun"]) == (REQUESTS, REQUESTS - 2)
    assert answer["inputs"][0]["peak"] == pytest.approx(23.07)


async def test_inputs_without_a_position_are_counted_and_not_shown(ask, driven):
    answer = await ask("inputs", driven(Inputs(empty=range(20))), **UNIT)
    assert (answer["rerun"], answer["histogram"]["total"]) == (REQUESTS, 5 * 4)
    assert [one["peak"] for one in answer["inputs"]] == pytest.approx([24.07 - i for i in range(5)])


async def test_where_no_input_can_be_run_again_that_is_told(questioned, driven):
    async with questioned(driven(Inputs(broken=range(REQUESTS)))) as http:
        reply = await http.get("inputs", params=UNIT)
    assert reply.status_code == 503
    assert "cannot be run again" in reply.text


async def test_closing_does_not_wait_for_the_rests_between_inputs(kept_panes, driven):
    began = threading.Event()

    class Begun(Inputs):
        def activation(self, tap, kept):
            began.set()
            return super().activation(tap, kept)

    settings = ConsoleSettings(budget=1e-9)
    watched = [driven(Begun())]
    api = Api(Sources(History(kept_panes, dict), watched, None, elsewhere(settings)), settings, lambda: NOW)
    asked = asyncio.ensure_future(api.ask("GetInputs", UNIT, lambda answer: answer))
    await asyncio.to_thread(began.wait, 60.0)
    await asyncio.to_thread(api.close)
    answer = await asked
    assert "inputs were run again so far, and it takes 20" in answer.detail
    assert (answer.histogram, answer.inputs, answer.kept) == (None, [], REQUESTS)
