"""Two running sidecars compared."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from typer.testing import CliRunner

from sidecar.baseline.replicas import fetch
from sidecar.cli import app
from sidecar.errors import BaselineError


def address(client):
    return f"http://127.0.0.1:{client.sidecar.http_port}"


async def compare(*arguments):
    outcome = await asyncio.to_thread(
        CliRunner().invoke, app, ["compare", *arguments], catch_exceptions=False
    )
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


async def drained(client, requests):
    while (
        client.model.observation.timeline.total(client.model.observation.taps[0]).counts.requests < requests
    ):
        await asyncio.sleep(0.01)


async def test_the_layers_of_two_replicas_are_listed_by_how_far_they_differ(serve, configure):
    configured = configure()
    async with serve(configured) as first, serve(configured) as second:
        await first.send(240)
        await drained(first, 240)
        rng = np.random.default_rng(1)
        for _ in range(60):
            await second.infer(rng.uniform(0, 160, (1, 64)).astype(np.float32))
        await drained(second, 60)
        listed = await compare(address(first), address(second), "--model", "digits")
    lines = listed.splitlines()
    assert lines[0].startswith(f"{address(first)}: digits version 1, recorded ")
    assert "60 requests, 6 taps" in lines[1]
    assert float(lines[-6].split()[1]) > 1


async def test_a_sidecar_that_refuses_is_quoted(serve, configure):
    async with serve(configure()) as client:
        with pytest.raises(BaselineError, match=r"refuses: no request of digits version 1 was observed"):
            await asyncio.to_thread(fetch, address(client), None, None, None)
        with pytest.raises(
            BaselineError, match=r"refuses: no such model is observed; there are: digits version 1"
        ):
            await asyncio.to_thread(fetch, address(client), "letters", None, None)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "must begin with http"),
        ("http://127.0.0.1:1", r"cannot reach http://127\.0\.0\.1:1"),
    ],
)
def test_an_address_that_is_no_url_or_that_nobody_answers_is_named(url, message):
    with pytest.raises(BaselineError, match=message):
        fetch(url, None, None, None)
