"""Work in turn, beside the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from sidecar.console.lane import Lane
from sidecar.errors import NotReadyError, OverloadedError


@pytest.fixture
def blocked():
    """Work that begins, and ends when `go_on` is set."""
    work = Blocked()
    yield work
    work.go_on.set()


class Blocked:
    def __init__(self):
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self):
        self.begun.set()
        assert self.go_on.wait(30)
        return "done"


async def begun(lane, work):
    task = asyncio.create_task(lane.run(work))
    assert await asyncio.to_thread(work.begun.wait, 30)
    return task


async def test_pieces_are_done_in_the_order_in_which_they_came(blocked):
    lane, seen = Lane("lane", 20), []
    first = await begun(lane, blocked)
    rest = [asyncio.create_task(lane.run(lambda i=i: seen.append(i))) for i in range(10)]
    await asyncio.sleep(0)
    blocked.go_on.set()
    await asyncio.gather(first, *rest)
    assert seen == list(range(10))


async def test_what_is_too_much_is_refused_and_taken_again_once_there_is_room(blocked):
    lane = Lane("lane", 1)
    first = await begun(lane, blocked)
    with pytest.raises(OverloadedError, match="1 questions wait already"):
        await lane.run(blocked)
    blocked.go_on.set()
    assert (await first, await lane.run(blocked)) == ("done", "done")


async def test_who_goes_away_leaves_a_place_only_when_the_work_is_done(blocked):
    lane = Lane("lane", 1)
    (await begun(lane, blocked)).cancel()
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await lane.run(blocked)


async def test_an_error_is_raised_to_who_asked_and_the_next_is_answered():
    lane = Lane("lane", 2)
    with pytest.raises(ZeroDivisionError):
        await lane.run(lambda: 1 // 0)
    assert await lane.run(lambda: 1) == 1


async def test_what_waits_when_it_is_closed_is_refused(blocked):
    lane = Lane("lane", 2)
    first = await begun(lane, blocked)
    second = asyncio.create_task(lane.run(lambda: 1))
    await asyncio.sleep(0)
    lane.close(wait=False)
    blocked.go_on.set()
    assert await first == "done"
    for refused in (second, lane.run(lambda: 1)):
        with pytest.raises(NotReadyError, match="the sidecar stops"):
            await refused


async def test_closing_waits_for_what_is_underway_where_it_is_told_to(blocked):
    lane = Lane("lane", 1)
    first = await begun(lane, blocked)
    closing = asyncio.create_task(asyncio.to_thread(lane.close, True))
    done, _ = await asyncio.wait({closing}, timeout=0.05)
    blocked.go_on.set()
    await closing
    assert (done, await first) == (set(), "done")
