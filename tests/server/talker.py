"""A decoupled model that says numbers, under the executor that runs the real ones."""

from __future__ import annotations

import asyncio
import threading

import numpy as np

from sidecar.runtime import new
from sidecar.runtime.decoupled_executor import DecoupledExecutor
from sidecar.types import Servable, Tensor, TensorSpec

FAILS, RETURNS, ENDLESS = -1, -2, -3
"""Instead of a count: one reply and then an error, one that is known to be the last, or no end."""


class Talker:
    """A runtime whose replies count from 0; the input says how far.

    gate: lets through one reply each; None all. size: values of a reply.
    """

    def __init__(self):
        self.gate = None
        self.size = 1
        self.made = self.closed = 0
        self.ended = threading.Condition()
        self.empty = new

    def prepare_thread(self):
        pass

    def prepare_instance(self):
        pass

    def reply(self, number):
        return {"y": Tensor("INT64", np.full(self.size, number))}

    def plain_replies(self, batch):
        count = int(batch["n"].array[0])
        try:
            number = 0
            while count in (FAILS, ENDLESS) or number < count:
                if count == FAILS and number:
                    raise RuntimeError("/secret")
                if self.gate:
                    assert self.gate.acquire(timeout=60)
                self.made += 1
                yield self.reply(number)
                number += 1
            return self.reply(0) if count == RETURNS else {}
        finally:
            with self.ended:
                self.closed += 1
                self.ended.notify_all()

    async def until_closed(self, generations=1):
        def wait():
            with self.ended:
                return self.ended.wait_for(lambda: self.closed >= generations, 60)

        assert await asyncio.to_thread(wait)


def talking(talker, instances=1):
    """`talker` as the server sees a model."""
    executor = DecoupledExecutor(talker, None, 60.0, usual=0.0, instances=instances)
    taken, given = TensorSpec("n", "INT64", (1,)), TensorSpec("y", "INT64", (-1,))
    return Servable(
        "talker", "1", "pytorch", (taken,), (given,), 0, executor.start, True,
        instances=instances, decoupled=True,
    )  # fmt: skip
