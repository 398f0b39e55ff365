"""The window as a baseline, and versions beside each other, over HTTP."""

from __future__ import annotations

import asyncio
import threading

import pytest

from sidecar.console.comparison import WAITING
from sidecar.drift import Reference
from tests.export.test_export_versions import served, watched

__all__ = ["served"]


async def test_the_window_comes_as_a_baseline(browse, served):
    async with browse(watched(served("1", 20)), watched(served("2", 40))) as http:
        first = await http.get("/api/v1/baseline")
        second = await http.get("/api/v1/baseline", params={"version": "2", "model": "digits"})
    assert first.headers["content-type"] == "application/octet-stream"
    got = [Reference.from_bytes(reply.content, "reply") for reply in (first, second)]
    assert [(one.version, one.requests, len(one.taps)) for one in got] == [("1", 20, 3), ("2", 40, 3)]


async def test_a_model_that_is_not_observed_is_not_found(browse, served, plain_model):
    async with browse(watched(served("1", 20)), plain_model) as http:
        reply = await http.get("/api/v1/baseline", params={"model": "plain"})
    assert (reply.status_code, reply.text) == (
        404,
        "no such model is observed; there are: digits version 1\n",
    )


async def test_before_any_request_there_is_no_baseline(browse, served):
    async with browse(watched(served("1"))) as http:
        reply = await http.get("/api/v1/baseline")
    assert reply.status_code == 409
    assert "no request of digits version 1 was observed" in reply.text


async def test_versions_are_told_by_layer(browse, served):
    async with browse(watched(served("1", 400)), watched(served("2", 200, shift=1.0))) as http:
        (found,) = (await http.get("/api/v1/versions")).json()["versions"]
    assert (found["beside"], found["version"], found["detail"]) == ("1", "2", "")
    assert found["layers"][1]["effects"]["psi"] > 0.3
    assert found["layers"][1]["tap"]["layer"] == 1


async def test_both_ask_for_the_token(browse, served):
    async with browse(watched(served("1", 20)), token=b"s3cret") as http:
        for path in ("/api/v1/baseline", "/api/v1/versions"):
            assert (await http.get(path)).status_code == 401


@pytest.mark.parametrize("path", ["/api/v1/baseline", "/api/v1/versions"])
async def test_only_so_many_wait_for_what_is_made_for_each(browse, served, monkeypatch, path):
    one, go_on = watched(served("1", 20)), threading.Event()
    asked = []

    def slow(_):
        asked.append(threading.get_ident())
        assert go_on.wait(30)
        return []

    monkeypatch.setattr("sidecar.console.comparison.observed", slow)
    async with browse(one) as http:
        many = [asyncio.create_task(http.get(path)) for _ in range(WAITING + 3)]
        refused = set()
        while len(refused) < 3:
            refused, _ = await asyncio.wait(many, timeout=0.01)
        assert {reply.result().status_code for reply in refused} == {429}
        assert len(asked) == 1
        go_on.set()
        await asyncio.gather(*many)
