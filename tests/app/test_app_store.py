"""A served model's panes, kept on disk by a real sidecar."""

import pytest

from sidecar.timeline import History


@pytest.fixture
def path(tmp_path):
    return tmp_path / "panes.db"


def requests(path):
    """Observed requests in all panes, by tap."""
    with History(path, dict).open() as found:
        panes = [pane for pane in found.panes("digits", "1") if pane.span == 10]
        taps = found.subjects()[0].taps
        return [found.merged(panes, tap).counts.requests for tap in taps]


async def test_what_was_seen_is_there_after_a_restart(configure, serve, path):
    for seen in (120, 240):
        async with serve(configure(store={"path": str(path)})) as client:
            await client.send(120)
        assert set(requests(path)) == {seen}


async def test_the_scrape_and_the_status_tell_how_the_store_fares(configure, serve, path):
    async with serve(configure(store={"path": str(path)})) as client:
        found = (await client.http.get("/metrics")).text
        status = (await client.http.get("/api/v1/status")).json()
    assert "sidecar_store_writable 1.0" in found
    assert status["store"]["path"] == str(path)


async def test_without_a_path_nothing_is_kept_and_nothing_said(configure, serve):
    async with serve(configure()) as client:
        await client.send(20)
        assert "sidecar_store" not in (await client.http.get("/metrics")).text
        assert (await client.http.get("/api/v1/status")).json()["store"] is None


async def test_a_store_that_cannot_be_written_costs_no_request(configure, serve, path):
    path.mkdir()
    async with serve(configure(store={"path": str(path)})) as client:
        await client.send(120)
        sidecar = client.sidecar
    assert sidecar._memory.store().dropped == 1
    assert path.is_dir()


async def test_a_damaged_store_costs_no_request_and_is_set_aside(configure, serve, path):
    path.write_bytes(b"no database" * 1000)
    async with serve(configure(store={"path": str(path)})) as client:
        await client.send(120)
        sidecar = client.sidecar
    assert set(requests(path)) == {120}
    assert sidecar._memory.store().set_aside == 1
