"""The window as a baseline, and versions beside each other, over HTTP."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.console.budget import BURST_SECONDS, Budget
from sidecar.drift import DriftMonitor, Reference
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
async def test_each_is_made_once_for_all_who_ask_meanwhile_and_until_the_next_drain(
    browse, served, monkeypatch, path
):
    one, two, now = watched(served("1", 20)), watched(served("2", 20)), [0.0]
    asked = []
    kept = DriftMonitor.snapshot
    monkeypatch.setattr(DriftMonitor, "snapshot", lambda self, least: asked.append(self) or kept(self, least))
    async with browse(one, two, keep_seconds=0.5, clock=lambda: now[0]) as http:
        await asyncio.gather(*(http.get(path) for _ in range(10)))
        first = len(asked)
        await http.get(path)
        now[0] = 0.5
        await http.get(path)
    assert first == len(set(asked))
    assert len(asked) == 2 * first


@pytest.mark.parametrize("path", ["/api/v1/baseline", "/api/v1/versions", "/api/v1/status"])
async def test_each_is_charged_and_refused_once_the_budget_is_spent(browse, served, path):
    budget = Budget(1.0, lambda: 0.0)
    async with browse(watched(served("1", 20)), budget=budget) as http:
        before = budget._level
        assert (await http.get(path)).status_code == 200
        assert budget._level < before
    budget.charge(BURST_SECONDS)
    async with browse(watched(served("1", 20)), budget=budget) as http:
        reply = await http.get(path)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
    assert "console.budget" in reply.text


async def test_a_window_of_few_requests_is_no_baseline(browse, served):
    async with browse(watched(served("1", 10)), min_requests=20) as http:
        reply = await http.get("/api/v1/baseline")
    assert (reply.status_code, reply.text) == (
        409,
        "10 requests of digits version 1 were observed in the last 600 s; an aggregate of fewer than 20 could "
        "tell of one of them\n",
    )


async def test_versions_of_few_requests_are_not_compared(browse, served):
    async with browse(watched(served("1", 400)), watched(served("2", 10)), min_requests=20) as http:
        (found,) = (await http.get("/api/v1/versions")).json()["versions"]
    assert found["layers"] == []
    assert "10 requests of digits version 2 were observed" in found["detail"]
