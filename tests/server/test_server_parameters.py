"""Priority, timeout and sequences: parameters that mean something to the server."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import tritonclient.grpc.aio
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from sidecar.errors import InvalidInputError
from sidecar.server.batching import Batcher
from sidecar.server.parameters import apply
from sidecar.settings import BatchingSettings
from tests.server.conftest import Ledger, Model, request, servable


def infer(client, **more):
    entry = tritonclient.grpc.aio.InferInput("fp32", [1, 3], "FP32")
    entry.set_data_from_numpy(np.zeros((1, 3), np.float32))
    return client.infer("echo", [entry], **more)


@pytest.mark.parametrize(
    ("timeout", "deadline", "effective"),
    [
        (0, None, None),
        (0, 60.0, 60.0),
        (2_000_000, None, 52.0),
        (2_000_000, 51.0, 51.0),
        (500_000, 51.0, 50.5),
    ],
)
def test_the_earlier_of_timeout_and_deadline_holds(make_request, timeout, deadline, effective):
    request = make_request(deadline=deadline)
    request.parameters = {"timeout": timeout}
    apply(request, 50.0, 0)
    assert request.deadline == effective


@pytest.mark.parametrize(
    ("levels", "asked", "given"),
    [(0, 3, 1), (4, 0, 4), (4, 1, 1), (4, 3, 3), (4, 4, 4), (4, 5, 4), (4, 2**64 - 1, 4)],
)
def test_a_priority_counts_where_the_model_has_levels(make_request, levels, asked, given):
    request = make_request()
    request.parameters = {"priority": asked} if asked else {}
    apply(request, 0.0, levels)
    assert request.priority == given


@pytest.mark.parametrize("name", ["timeout", "priority"])
@pytest.mark.parametrize("value", [-1, True, 1.5, "7", 2**64])
def test_what_is_no_count_is_refused(make_request, name, value):
    request = make_request()
    request.parameters = {name: value}
    with pytest.raises(InvalidInputError, match=f"parameter '{name}' is .*, must be an integer from 0"):
        apply(request, 0.0, 4)


@pytest.mark.parametrize(
    "parameters",
    [{"sequence_id": 7}, {"sequence_id": "seven"}, {"sequence_start": True}, {"sequence_end": True}],
)
def test_a_sequence_is_refused_by_the_field_that_asks_for_it(make_request, parameters):
    request = make_request()
    request.parameters = parameters
    with pytest.raises(
        InvalidInputError, match=f"'{next(iter(parameters))}' is set, and no model here keeps"
    ):
        apply(request, 0.0, 0)


def test_sequence_fields_at_their_defaults_are_no_sequence(make_request):
    request = make_request()
    request.parameters = {"sequence_id": 0, "sequence_start": False, "sequence_end": False}
    apply(request, 0.0, 0)


async def test_a_client_that_begins_a_sequence_is_told(serve, model, make_servable, fp32_spec):
    async with (
        serve(make_servable(model.execute, [fp32_spec])) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        with pytest.raises(InferenceServerException, match="no model here keeps state") as failed:
            await infer(client, sequence_id=1, sequence_start=True)
    assert failed.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert model.batches == []


async def test_a_request_that_waits_longer_than_its_timeout_never_runs(
    serve, model, make_servable, fp32_spec, ledger
):
    model.gate.clear()
    async with (
        serve(make_servable(model.execute, [fp32_spec], max_rows=1)) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        running = asyncio.create_task(infer(client, request_id="running", timeout=60_000_000))
        await model.entered.wait()
        late = asyncio.create_task(infer(client, request_id="late", timeout=1))
        patient = asyncio.create_task(infer(client, request_id="patient"))
        while len(ledger.started) < 3:
            await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(running, patient)
        with pytest.raises(InferenceServerException, match="the deadline passed while") as failed:
            await late
    assert failed.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert [one.id for batch in model.batches for one in batch] == ["running", "patient"]


async def test_parameters_that_only_other_transports_need_are_tolerated(
    serve, model, make_servable, fp32_spec
):
    wanted = tritonclient.grpc.aio.InferRequestedOutput("fp32")
    wanted._output.parameters["binary_data"].bool_param = True
    async with (
        serve(make_servable(model.execute, [fp32_spec])) as address,
        tritonclient.grpc.aio.InferenceServerClient(address) as client,
    ):
        reply = await infer(client, outputs=[wanted], parameters={"binary_data_size": 12})
    assert reply.as_numpy("fp32").shape == (1, 3)


@given(
    priorities=st.lists(st.integers(1, 4), min_size=1, max_size=12),
    widths=st.lists(st.integers(1, 2), min_size=12, max_size=12),
)
async def test_the_most_urgent_runs_first_and_equals_in_the_order_they_came(priorities, widths):
    model = Model()
    model.gate.clear()
    clock = iter(range(1000)).__next__
    settings = BatchingSettings(max_delay_ms=0, priority_levels=4)
    batcher = Batcher(servable(model.execute, [], max_rows=1), settings, Ledger(), clock)
    first = asyncio.create_task(batcher.submit(request(99)))
    await model.entered.wait()
    waiting = []
    for number, priority in enumerate(priorities):
        asked = request(number, width=widths[number])
        asked.priority = priority
        waiting.append(asyncio.create_task(batcher.submit(asked)))
        await asyncio.sleep(0)
    model.gate.set()
    await asyncio.gather(first, *waiting)
    order = [int(one.id) for batch in model.batches[1:] for one in batch]
    assert order == sorted(range(len(priorities)), key=lambda number: (priorities[number], number))
