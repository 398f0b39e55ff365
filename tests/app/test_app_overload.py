"""More requests than a model can take, and requests that nobody waits for: each ends, and nothing of them is left.

`make bench-overload` does the same with a process of its own and by the ten thousand.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections import Counter

import grpc
import pytest

from sidecar._pb import open_inference_pb2 as pb

pytestmark = pytest.mark.usefixtures("front_end")

MANY = 200


class Held:
    """Runs in place of the plain variant. ran: first value of each row. gate: while not set, no run ends."""

    def __init__(self, runtime, monkeypatch):
        self.ran = []
        self.gate, self.entered = threading.Event(), asyncio.Event()
        self.gate.set()
        self._plain, self._loop = runtime.plain, asyncio.get_running_loop()
        monkeypatch.setattr(runtime, "plain", self)

    def __call__(self, batch):
        self.ran += batch["pixels"].array[:, 0].tolist()
        self._loop.call_soon_threadsafe(self.entered.set)
        assert self.gate.wait(30)
        return self._plain(batch)


def message(number):
    """A request whose pixels are all `number`."""
    request = pb.ModelInferRequest(model_name="digits")
    request.inputs.add(name="pixels", datatype="FP32", shape=[1, 64]).contents.fp32_contents.extend(
        [number] * 64
    )
    return request


async def outcome(call):
    """Its status, however it ends."""
    await asyncio.wait([asyncio.ensure_future(_end(call))])
    return (await call.code()).name


async def _end(call):
    try:
        await call
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        return


async def until_in_flight(client, count):
    while (await client.metrics())("sidecar_requests_in_flight") != count:
        await asyncio.sleep(0)


def alive():
    """Objects of ours and tasks, by type: what a request may leave behind."""
    gc.collect()
    ours = (type(one) for one in gc.get_objects() if str(type(one).__module__).startswith("sidecar"))
    return Counter(kind.__qualname__ for kind in ours) | Counter(tasks=len(asyncio.all_tasks()))


async def rounds(client, held, unwanted, code, reason):
    """Twice the same, after the second as much is left as after the first: `MANY` requests that end with `code`."""
    left: Counter[str] = Counter()
    for _ in range(2):
        held.ran.clear()
        held.entered.clear()
        held.gate.clear()
        running = asyncio.ensure_future(outcome(client._stub.ModelInfer(message(-1.0))))
        await held.entered.wait()
        # What cannot be in time, as far as the model's pace tells, is refused before it waits.
        assert set(await unwanted(client)) - {"RESOURCE_EXHAUSTED"} == {code}
        held.gate.set()
        assert await running == "OK"
        assert await outcome(client._stub.ModelInfer(message(-2.0))) == "OK"
        assert held.ran == [-1.0, -2.0]
        await until_in_flight(client, 0)
        # The core may have a word left to say about the last of them.
        while left and alive() - left:
            await asyncio.sleep(0)
        left = alive()
    # One whose deadline passes on the way is not counted, for it never came.
    assert 0 < (await client.metrics())("sidecar_rejected_requests_total", reason=reason) <= 2 * MANY


async def expired(client):
    calls = [client._stub.ModelInfer(message(float(number)), timeout=0.05) for number in range(MANY)]
    return await asyncio.gather(*map(outcome, calls))


async def cancelled(client):
    calls = [client._stub.ModelInfer(message(float(number))) for number in range(MANY)]
    ends = asyncio.gather(*map(outcome, calls))
    await until_in_flight(client, MANY + 1)
    for call in calls:
        call.cancel()
    codes = await ends
    await until_in_flight(client, 1)
    return codes


@pytest.mark.parametrize(
    ("unwanted", "code", "reason"),
    [(expired, "DEADLINE_EXCEEDED", "expired"), (cancelled, "CANCELLED", "cancelled")],
    ids=["expired", "cancelled"],
)
async def test_requests_that_nobody_waits_for_never_run_and_leave_nothing(
    *, serve, configure, monkeypatch, unwanted, code, reason
):
    async with asyncio.timeout(60), serve(configure(capture={"enabled": False})) as client:
        held = Held(client.model.runtime, monkeypatch)
        await rounds(client, held, unwanted, code, reason)


async def test_a_full_queue_refuses_at_once_and_what_it_holds_is_answered(serve, configure, monkeypatch):
    small = {"batching": {"max_rows": 8, "queue_requests": 16}}
    async with asyncio.timeout(60), serve(configure(small, capture={"enabled": False})) as client:
        held = Held(client.model.runtime, monkeypatch)
        held.gate.clear()
        running = asyncio.ensure_future(outcome(client._stub.ModelInfer(message(-1.0))))
        await held.entered.wait()
        calls = [client._stub.ModelInfer(message(float(number))) for number in range(MANY)]
        ends = [asyncio.ensure_future(outcome(call)) for call in calls]
        first = itertools.islice(asyncio.as_completed(ends), MANY - 16)
        assert {await end for end in first} == {"RESOURCE_EXHAUSTED"}
        held.gate.set()
        assert await running == "OK"
        assert Counter(await asyncio.gather(*ends)) == {"OK": 16, "RESOURCE_EXHAUSTED": MANY - 16}
        assert len(held.ran) == 17
        counted = await client.metrics()
    assert counted("sidecar_rejected_requests_total", reason="queue_full") == MANY - 16
