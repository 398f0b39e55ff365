"""The thread that a model runs on gives back whatever comes out, in order, and never dies of it."""

from __future__ import annotations

import asyncio
import threading
import weakref

import pytest

from sidecar.runtime.thread import ModelThread


@pytest.fixture
def thread():
    thread = ModelThread(lambda: None)
    yield thread
    thread.close()


def fail(error):
    raise error


async def test_functions_run_one_after_the_other_on_one_thread(thread):
    futures = [thread.run(lambda number: (number, threading.get_ident()), number) for number in range(100)]
    results = await asyncio.gather(*futures)
    assert [number for number, _ in results] == list(range(100))
    assert len({ident for _, ident in results} | {threading.get_ident()}) == 2


@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError("mine"), SystemExit("mine")])
async def test_what_a_function_raises_is_raised_to_who_waits_and_the_next_one_runs(thread, error):
    with pytest.raises(type(error), match="mine"):
        await thread.run(fail, error)
    assert await thread.run(abs, -3) == 3


async def test_even_the_error_that_no_future_takes_ends_the_waiting(thread):
    with pytest.raises(RuntimeError, match="StopIteration"):
        await thread.run(fail, StopIteration())


async def test_who_gave_up_waiting_is_left_alone(thread):
    gate = threading.Event()
    given_up = thread.run(gate.wait)
    given_up.cancel()
    gate.set()
    assert await thread.run(abs, -3) == 3
    assert given_up.cancelled()


async def test_nothing_is_kept_of_what_has_run(thread):
    class Batch:
        pass

    batch = Batch()
    kept = weakref.ref(batch)
    await thread.run(lambda given: None, batch)
    del batch
    await thread.run(abs, 1)
    assert kept() is None


def test_a_loop_that_is_closed_meanwhile_is_no_error(thread):
    gate, entered = threading.Event(), threading.Event()

    def work():
        entered.set()
        gate.wait()

    async def leave():
        thread.run(work)
        entered.wait()

    asyncio.run(leave())
    gate.set()

    async def again():
        return await thread.run(abs, -3)

    assert asyncio.run(again()) == 3
