"""Fifty times versions are loaded, swapped and unloaded while many clients send, with a canary in between."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

ROUNDS = 50
CLIENTS = 8

POLICIES = (
    {"all": {}}, {"specific": {"versions": ["1"]}}, {"latest": {"num_versions": 1}},
    {"specific": {"versions": ["2"]}}, {"specific": {"versions": ["1", "2"]}},
)  # fmt: skip


def threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("sidecar")}


def open_files():
    return len(os.listdir("/proc/self/fd"))


def resident():
    """MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


@pytest.fixture
def canaried(configure):
    """The digits in two versions, the second a canary, and a model that nobody asks."""
    configured = configure(server={"admin": True})
    (first,) = configured.models
    first = first.model_copy(update={"canary": {"2": 0.3}})
    models = (
        first,
        first.model_copy(update={"version": "2"}),
        first.model_copy(update={"name": "spare", "load": False, "canary": {}}),
    )
    return configured.model_copy(update={"models": models})


@pytest.mark.slow
async def test_fifty_swaps_under_load_lose_nothing_and_leave_nothing(serve, canaried):
    before = threads()
    answers: Counter[str] = Counter()
    lost: list[str] = []
    sizes: list[float] = []
    done = asyncio.Event()

    async def send(number, address):
        async with triton.InferenceServerClient(address) as client:
            pixels = triton.InferInput("pixels", [1, 64], "FP32")
            pixels.set_data_from_numpy(np.ones((1, 64), np.float32))
            sent = 0
            while not done.is_set():
                id = f"{number}-{sent}"
                try:
                    reply = await client.infer("digits", [pixels], request_id=id, client_timeout=30)
                except InferenceServerException as error:
                    lost.append(str(error))
                    return
                assert reply.get_response().id == id
                answers[reply.get_response().model_version] += 1
                sent += 1

    async with serve(canaried) as client:
        address = f"127.0.0.1:{client.sidecar.grpc_port}"
        workers = [asyncio.create_task(send(number, address)) for number in range(CLIENTS)]
        async with triton.InferenceServerClient(address) as admin:
            for number in range(ROUNDS):
                policy = POLICIES[number % len(POLICIES)]
                await admin.load_model("digits", config=json.dumps({"version_policy": policy}))
                await admin.load_model("spare")
                await admin.unload_model("spare")
                if number == 4:
                    threads_early, files_early = len(threads()), open_files()
                sizes.append(resident())
            await admin.load_model("digits", config=json.dumps({"version_policy": POLICIES[4]}))
            threads_late, files_late = len(threads()), open_files()
        done.set()
        await asyncio.gather(*workers)
    for thread in threads() - before:
        await asyncio.to_thread(thread.join, 60)
    print(
        f"answers {dict(answers)}; MiB {sizes[4]:.0f} -> {sizes[-1]:.0f}; files {files_early} -> {files_late}"
    )
    assert lost == []
    assert min(answers["1"], answers["2"]) > 100
    assert threads() == before
    assert threads_late <= threads_early
    assert files_late <= files_early
    # The first rounds fill caches; weights that stay would be 14 MiB a round.
    assert sizes[-1] - sizes[9] < 64
