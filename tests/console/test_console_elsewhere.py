"""Baselines and replicas that the settings name, looked at and compared with what is kept."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace

import pytest

from sidecar.console.elsewhere import WAITING
from sidecar.console.questions import Range
from sidecar.drift.nodrift import NoDrift
from sidecar.errors import BaselineError, NotReadyError, UnreachableError
from sidecar.settings import ConsoleSettings
from tests.console.kept import NOW, START, elsewhere, recorded

URL = "http://east:8002"


@pytest.fixture
def baseline(tmp_path):
    path = tmp_path / "march.baseline"
    recorded().save(path)
    return path


@pytest.fixture
def named(baseline):
    return ConsoleSettings(budget=64.0, baselines={"march": baseline}, replicas={"east": URL})


def ignored(seconds):
    """What loading took."""


class Replica:
    """Answers as a replica does, and counts how often it was asked."""

    def __init__(self, answer):
        self.asked, self._answer = [], answer

    def __call__(self, *asked):
        self.asked.append(asked)
        if isinstance(self._answer, BaselineError):
            raise self._answer
        return self._answer


async def questions(questioned, *asked, settings, **more):
    async with questioned(settings=settings, **more) as http:
        return [await http.get(path, params=given) for path, given in asked]


async def test_what_may_be_asked_for_is_listed(questioned, named):
    (taps,) = await questions(questioned, ("taps", {}), settings=named)
    assert taps.json()["sources"] == ["baseline:march", "replica:east"]


async def test_a_range_is_compared_with_a_baseline(questioned, named):
    given = {"begin": START, "end": START + 10, "other_source": "baseline:march"}
    (reply,) = await questions(questioned, ("compare", {"version": "1", **given}), settings=named)
    answer = reply.json()
    assert (answer["right"]["source"], answer["right"]["end"], answer["right"]["requests"]) == (
        "baseline:march",
        NOW,
        25,
    )
    assert [layer["psi"] for layer in answer["layers"]] == [0.0, 0.0]
    assert answer["layers"][0]["right"] == pytest.approx(answer["layers"][0]["left"])


async def test_the_window_of_a_replica_is_compared_with_a_baseline(questioned, named):
    given = {"source": "baseline:march", "other_source": "replica:east"}
    (reply,) = await questions(
        questioned, ("compare", given), settings=named, fetch=Replica(recorded(shift=2.0))
    )
    first = reply.json()["layers"][0]
    assert first["right"]["mean"] - first["left"]["mean"] == pytest.approx(2.0, rel=1e-4)
    assert first["psi"] > 0.3


async def test_a_layer_of_a_baseline_is_told_as_one_of_panes_is(questioned, named):
    place = {"version": "1", "layer": 0}
    (panes, source) = await questions(
        questioned,
        ("layer", {**place, "begin": START, "end": START + 10}),
        ("layer", {**place, "source": "baseline:march"}),
        settings=named,
    )
    ours, theirs = panes.json()["channels"], source.json()["channels"]
    assert theirs["absmax"] == pytest.approx(ours["absmax"], rel=2**-7)
    assert theirs["outliers"] == ours["outliers"]


async def test_the_reference_of_a_served_version_is_a_source(ask, fresh_model):
    served = replace(fresh_model(), model="digits", version="1", monitor=Judged(recorded(shift=1.0)))
    given = {"begin": START, "end": NOW, "other_source": "reference"}
    answer = await ask("compare", served, version="1", **given)
    assert answer["right"]["source"] == "reference"
    assert answer["layers"][0]["shift"] > 0


async def test_what_a_reference_knows_of_no_drift_is_subtracted(ask, fresh_model):
    mean, level = (0.5, 0.1, 0.4, 0.3, 0.2, 0.2), (1.0, 0.2, 0.8, 0.6, 0.4, 0.4)
    known = recorded(shift=1.0)
    given = {"begin": START, "end": NOW, "other_source": "reference"}
    answers = []
    for nodrift in (NoDrift.unknown(), NoDrift(mean, level)):
        judged = Judged(replace(known, nodrift=(nodrift,) * 2))
        served = replace(fresh_model(), model="digits", version="1", monitor=judged)
        answers.append((await ask("compare", served, version="1", **given))["layers"][0])
    unknown, first = answers
    assert (unknown["no_drift_from"], first["no_drift_from"]) == ("left", "reference")
    rate = 1 / 150 + 1 / 25
    assert first["no_drift"]["psi"] == pytest.approx(0.5 * rate)
    assert first["no_drift"]["wasserstein"] == pytest.approx(0.3 * rate**0.5)
    assert first["psi"] == pytest.approx(unknown["psi"] + unknown["no_drift"]["psi"] - 0.5 * rate)
    assert first["times_level"] >= (first["psi"] + 0.5 * rate) / rate


class Judged:
    def __init__(self, reference):
        self.reference = reference


@pytest.mark.parametrize(
    ("method", "given", "status", "text"),
    [
        ("layer", {"layer": 0, "source": "baseline:april"}, 400, "there are reference, baseline:march, replica:east"),
        ("layer", {"layer": 0, "source": "/etc/passwd"}, 400, "source"),
        ("layer", {"layer": 0, "source": "replica:http://elsewhere"}, 400, "there is no source"),
        ("layer", {"layer": 0, "source": "reference"}, 400, "has no reference now"),
        ("layer", {"layer": 0, "source": "baseline:march", "begin": 1}, 400, "give either source, or begin"),
        ("compare", {"source": "baseline:march", "other_source": "baseline:march"}, 400, "the two sides are the same"),
    ],
)  # fmt: skip
async def test_a_source_that_is_not_named_is_refused(questioned, named, method, given, status, text):
    replica = Replica(recorded())
    (reply,) = await questions(questioned, (method, given), settings=named, fetch=replica)
    assert reply.status_code == status
    assert text in reply.json()["error"]
    assert replica.asked == []


async def test_a_baseline_of_too_few_requests_is_withheld(questioned, tmp_path):
    recorded(requests=3).save(tmp_path / "few")
    settings = ConsoleSettings(budget=64.0, baselines={"few": tmp_path / "few"})
    (reply,) = await questions(
        questioned, ("layer", {"layer": 0, "source": "baseline:few"}), settings=settings
    )
    assert reply.status_code == 403


async def test_a_replica_that_cannot_be_reached_is_named_and_not_asked_again_at_once(questioned, named):
    replica = Replica(BaselineError("cannot reach it"))
    asked = ("layer", {"layer": 0, "source": "replica:east"})
    replies = await questions(questioned, asked, asked, settings=named, fetch=replica)
    assert [reply.status_code for reply in replies] == [503, 503]
    assert replies[0].json()["error"] == "replica:east cannot be had now; the log says why"
    assert len(replica.asked) == 1


async def test_a_replica_is_asked_for_the_same_model_version_and_given_the_token(named, tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    replica, now = Replica(recorded()), [0.0]
    named = named.model_copy(update={"replica_token_file": token})
    there = elsewhere(named, replica, lambda: now[0])
    asked = [Range(model="digits", version="2", source="replica:east")]
    await there.references(asked, ignored)
    await there.references(asked, ignored)
    now[0] = 11.0
    await there.references(asked, ignored)
    there.close()
    assert replica.asked == [(URL, "digits", "2", "s3cret")] * 2


async def test_a_baseline_is_read_again_when_its_file_has_changed(named, baseline):
    there = elsewhere(named)
    (asked,) = [Range(source="baseline:march")]
    (first,) = (await there.references([asked], ignored)).values()
    (second,) = (await there.references([asked], ignored)).values()
    recorded(version="7", requests=30).save(baseline)
    (third,) = (await there.references([asked], ignored)).values()
    baseline.unlink()
    with pytest.raises(NotReadyError, match="baseline:march cannot be had"):
        await there.references([asked], ignored)
    there.close()
    assert second is first
    assert third.version == "7"


async def test_what_loading_takes_counts_as_what_answering_takes(named):
    there, charged = elsewhere(named), []
    for _ in range(2):
        await there.references([Range(source="baseline:march")], charged.append)
    there.close()
    (seconds,) = charged
    assert seconds > 0


async def test_a_slow_replica_holds_up_no_other_question(questioned, named):
    loop, asked, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def slow(*_):
        loop.call_soon_threadsafe(asked.set)
        assert go_on.wait(30)
        return recorded()

    async with questioned(settings=named, fetch=slow) as http:
        waiting = asyncio.create_task(http.get("layer", params={"layer": 0, "source": "replica:east"}))
        await asked.wait()
        assert (await http.get("layer", params={"layer": 0, "begin": START, "end": NOW})).status_code == 200
        go_on.set()
        assert json.loads((await waiting).text)["covered"]["source"] == "replica:east"


@pytest.fixture
def hanging():
    """A replica that says nothing until the test is over."""
    go_on = threading.Event()

    def fetch(*_):
        assert go_on.wait(30)
        return recorded()

    yield fetch
    go_on.set()


def asking(there, source="replica:east", model=""):
    return asyncio.create_task(there.references([Range(source=source, model=model)], ignored))


async def test_only_so_many_wait_for_a_replica_and_all_others_are_answered(questioned, named, hanging):
    async with questioned(settings=named, fetch=hanging) as http:
        given = {"layer": 0, "source": "replica:east"}
        many = [asyncio.create_task(http.get("layer", params={**given, "model": f"m{i}"})) for i in range(40)]
        refused = [reply.result() for reply in (await asyncio.wait(many, return_when="FIRST_COMPLETED"))[0]]
        while len(refused) < 40 - WAITING:
            done, _ = await asyncio.wait(many, timeout=0.01)
            refused = [reply.result() for reply in done]
        assert {reply.status_code for reply in refused} == {429}
        for other in ({"begin": START, "end": NOW}, {"source": "baseline:march"}):
            assert (await http.get("layer", params={"layer": 0, **other})).status_code == 200
        for one in many:
            one.cancel()


async def test_a_replica_that_is_out_of_reach_is_not_asked_for_another_model_either(named):
    replica, now = Replica(UnreachableError("no route to it")), [9.0]
    there = elsewhere(named, replica, lambda: now[0])
    for now[0], model in ((9.0, "a"), (10.0, "b"), (18.9, "c"), (19.0, "d")):
        with pytest.raises(NotReadyError):
            await asking(there, model=model)
    assert [model for _, model, _, _ in replica.asked] == ["a", "d"]


async def test_a_model_that_a_replica_does_not_have_takes_no_other_from_it(named):
    def fetch(_, model, *__):
        if model == "letters":
            raise BaselineError("no such model")
        return recorded()

    there = elsewhere(named, fetch)
    with pytest.raises(NotReadyError):
        await asking(there, model="letters")
    assert len(await asking(there, model="digits")) == 1


async def test_a_replica_that_hangs_does_not_hold_up_the_stop(named, hanging):
    there = elsewhere(named, hanging)
    waiting = asking(there)
    await asyncio.sleep(0)
    there.close()
    (thread,) = [one for one in threading.enumerate() if one.name == "sidecar-elsewhere"]
    assert thread.daemon
    waiting.cancel()


async def test_the_log_alone_says_why_a_source_cannot_be_had(named, tmp_path, caplog):
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    named = named.model_copy(update={"replica_token_file": tmp_path / "token"})
    there = elsewhere(named, Replica(recorded()))
    for _ in range(2):
        with pytest.raises(NotReadyError) as refusal:
            await asking(there)
        assert str(refusal.value) == "replica:east cannot be had now; the log says why"
    (told,) = caplog.messages
    assert f"cannot read {tmp_path / 'token'}" in told
