"""One answer for all who ask at once, and never a long wait."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from sidecar.console.budget import BURST_SECONDS, Budget
from sidecar.console.shared import Shared
from sidecar.errors import NotReadyError, OverloadedError

FREE = Budget(64.0, lambda: 0.0)


class Maker:
    """Makes answers "1", "2", ..., each when `go_on` is set."""

    def __init__(self):
        self.made, self.go_on, self.begun = 0, threading.Event(), threading.Event()
        self.go_on.set()

    def __call__(self):
        self.begun.set()
        assert self.go_on.wait(30)
        self.made += 1
        return str(self.made).encode()


@pytest.fixture
def make():
    maker = Maker()
    yield maker
    maker.go_on.set()


async def test_whoever_asks_while_it_is_made_gets_the_same(make):
    shared = Shared(make, 0.0, FREE, lambda: 0.0)
    assert await asyncio.gather(*(shared.answer() for _ in range(50))) == [(b"1", 0)] * 50


async def test_it_is_made_again_once_it_has_been_kept_for_so_long(make):
    now = [0.0]
    shared = Shared(make, 0.5, FREE, lambda: now[0])
    found = []
    for now[0] in (0.0, 0.4, 0.5, 0.9):
        found.append((await shared.answer())[0])
    assert found == [b"1", b"1", b"2", b"2"]


async def test_no_answer_is_kept_for_longer_than_a_second(make):
    now = [0.0]
    shared = Shared(make, 60.0, FREE, lambda: now[0])
    first = await shared.answer()
    now[0] = 1.0
    assert (first, await shared.answer()) == ((b"1", 0), (b"2", 0))


async def test_where_making_takes_too_long_the_last_answer_is_given_with_its_age(make):
    now = [0.0]
    shared = Shared(make, 0.0, FREE, lambda: now[0], patience=0.0)
    with pytest.raises(NotReadyError):
        await shared.answer()
    while (found := shared._making) is not None:
        await found
    make.go_on.clear()
    now[0] = 7.5
    assert await shared.answer() == (b"1", 7)
    assert await shared.answer() == (b"1", 7)
    make.go_on.set()
    while (found := shared._making) is not None:
        await found
    assert make.made == 2


async def test_a_failure_is_told_to_those_who_waited_and_does_not_last():
    failing = [True]

    def make():
        if failing[0]:
            raise ValueError("no")
        return b"yes"

    shared = Shared(make, 0.0, FREE, lambda: 0.0)
    for found in await asyncio.gather(*(shared.answer() for _ in range(3)), return_exceptions=True):
        assert isinstance(found, ValueError)
    failing[0] = False
    assert await shared.answer() == (b"yes", 0)


async def test_one_who_goes_away_does_not_take_the_answer_from_the_others(make):
    make.go_on.clear()
    shared = Shared(make, 0.0, FREE, lambda: 0.0)
    leaving, staying = (asyncio.create_task(shared.answer()) for _ in range(2))
    while not make.begun.is_set():
        await asyncio.sleep(0)
    leaving.cancel()
    make.go_on.set()
    assert await staying == (b"1", 0)


async def test_what_is_made_is_charged_and_once_that_is_spent_the_last_answer_is_given(make):
    now = [0.0]
    budget = Budget(0.5, lambda: now[0])
    shared = Shared(make, 0.0, budget, lambda: now[0])
    assert await shared.answer() == (b"1", 0)
    budget.charge(BURST_SECONDS + 1)
    now[0] = 1.0
    assert await shared.answer() == (b"1", 1)
    now[0] = 4.0
    assert await shared.answer() == (b"2", 0)


async def test_without_a_last_answer_a_spent_budget_is_told(make):
    budget = Budget(0.5, lambda: 0.0)
    budget.charge(BURST_SECONDS + 1)
    with pytest.raises(OverloadedError, match=r"console\.budget; try again in 3 s"):
        await Shared(make, 0.0, budget, lambda: 0.0).answer()


async def test_the_cpu_time_of_making_is_charged():
    budget = Budget(64.0, lambda: 0.0)

    def burn():
        began = time.thread_time()
        while time.thread_time() - began < 0.01:
            pass
        return b""

    await Shared(burn, 0.0, budget, lambda: 0.0).answer()
    assert budget._level <= BURST_SECONDS - 0.01
