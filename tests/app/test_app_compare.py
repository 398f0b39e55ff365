"""Two running sidecars compared."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from typer.testing import CliRunner

from sidecar.baseline.replicas import fetch
from sidecar.cli import app
from sidecar.errors import BaselineError, UnreachableError


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


async def test_versions_served_side_by_side_are_compared_while_they_are(serve, configure):
    """Both have the same weights; the second gets brighter images."""
    same = configure({"source": "tests.app.factories:Residual", "version": "1"})
    (first,) = same.models
    both = same.model_copy(update={"models": (first, first.model_copy(update={"version": "2"}))})
    async with serve(both) as client:
        rng = np.random.default_rng(0)
        # Bit by bit: a reference that comes with one drain has no parts to compare.
        for part in range(1, 6):
            for model, brightness in zip(client.sidecar.models, (16, 160), strict=True):
                images = [rng.uniform(0, brightness, (1, 64)).astype(np.float32) for _ in range(44)]
                version = model.settings.version
                await asyncio.gather(*(client.infer(image, version) for image in images))
                seen = model.observation.timeline
                while seen.total(seen.taps[0]).counts.requests < 44 * part:
                    await asyncio.sleep(0.01)
        while not all(model.observation.monitor.reference for model in client.sidecar.models):
            await asyncio.sleep(0.01)
        found = await client.metrics()
        (told,) = (await client.http.get("/api/v1/versions")).json()["versions"]
    assert (told["beside"], told["version"], told["detail"]) == ("1", "2", "")
    assert all(layer["effects"]["times_level"] > 1 for layer in told["layers"])
    assert found("sidecar_version_psi", version="2", layer="0", site="resid") > 0.5


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
        ("http://127.0.0.1:port", r"cannot reach http://127\.0\.0\.1:port"),
        ("http://[", r"cannot reach http://\["),
    ],
)
def test_an_address_that_is_no_url_or_that_nobody_answers_is_named(url, message):
    with pytest.raises(BaselineError, match=message):
        fetch(url, None, None, None)


async def test_a_token_does_not_follow_a_redirection():
    asked = []

    async def answer(reader, writer):
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {url}/elsewhere\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        with pytest.raises(BaselineError, match="refuses"):
            await asyncio.to_thread(fetch, url, None, None, "secret")
    assert len(asked) == 1


def test_a_token_of_two_lines_is_refused_without_being_quoted():
    with pytest.raises(UnreachableError, match="must be one line of printable ASCII") as refusal:
        fetch("http://127.0.0.1:1", None, None, "secret\nmore")
    assert "secret" not in str(refusal.value)


@pytest.fixture
def replied():
    """What `fetch` raises where the reply begins so, and then goes on with `more` for ever or ends."""

    async def replied(begin, more=b"", seconds=30.0):
        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(begin)
            while more and not writer.is_closing():
                writer.write(more)
                await asyncio.sleep(0)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            with pytest.raises(BaselineError) as refusal:
                await asyncio.to_thread(fetch, url, None, None, None, seconds)
        return refusal.value

    return replied


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"nothing of the kind\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nshort",
        b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nshort",
        b"HTTP/1.1 401 Who\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_what_answers_anything_but_http_or_refuses_everything_is_out_of_reach(replied, reply):
    assert isinstance(await replied(reply), UnreachableError)


@pytest.mark.parametrize(
    ("begin", "more"),
    [(b"HTTP/1.1 200 OK\r\n\r\n", b"x"), (b"", b"HTTP/1.1 100 Continue\r\n\r\n")],
    ids=["body", "headers"],
)
async def test_a_reply_that_never_ends_is_cut_off(replied, begin, more):
    assert "not whole in time" in str(await replied(begin, more, seconds=0.2))


async def test_a_model_that_is_not_there_puts_no_other_out_of_reach(replied):
    refusal = await replied(b"HTTP/1.1 404 No\r\nContent-Length: 4\r\n\r\nnone")
    assert not isinstance(refusal, UnreachableError)
