"""The GPU kernels under Triton's interpreter, which has to be chosen before triton is imported.

`test_capture_cuda_interpreter.py` runs this file in a process where it is.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.capture import layout
from sidecar.capture.cuda import launch
from sidecar.capture.observe import OpState
from sidecar.sketch import BINS, TapSketch, project
from sidecar.timeline import Strongest
from tests.capture.conftest import NEAR_ZERO, Fold, plain
from tests.capture.test_capture_kernel import assert_row_of, assert_sums_close, cases
from tests.capture.test_capture_peaks import assert_peaks, peaks_of
from tests.capture.test_capture_projection import assert_projected


def kernel(x, channel_dim, *state):
    # A GPU does not warn of what numpy, in its place here, warns of.
    with np.errstate(all="ignore"):
        launch.observe(x, channel_dim, OpState(*state))


def assert_all_but_the_histogram_equal(found, expected, values, pivot):
    assert found.counts == expected.counts
    assert found.channels.positions == expected.channels.positions
    for name in ("fires", "outliers", "absmax"):
        assert np.array_equal(getattr(found.channels, name), getattr(expected.channels, name)), name
    assert_sums_close(found, expected, values, pivot)


@given(cases(), st.data())
@settings(max_examples=60, deadline=None)
def test_the_kernels_find_what_the_definition_says_of_each_request_and_of_the_tap(case, data):
    values, pivot = case.values, case.pivot
    rows = len(values)
    slots = data.draw(st.lists(st.integers(-1, 3), min_size=rows, max_size=rows))
    seen = Fold(kernel, values.shape[-1], pivot, capacity=4)
    cut = data.draw(st.integers(0, rows))
    for part in (slice(cut), slice(cut, rows)):
        seen(case.x[part], slots[part] or [-1], case.channel_dim)
    found, request_rows = seen.read(4)
    slot_of = np.array(slots, dtype=int)
    observed = values[slot_of >= 0]
    if observed.size == 0:
        assert found.counts == TapSketch.empty(values.shape[-1]).counts
        return
    expected = TapSketch.from_array(observed, NEAR_ZERO, len({*slots} - {-1}))
    assert_all_but_the_histogram_equal(found, expected, observed, pivot)
    for slot in range(4):
        own = values[slot_of == slot]
        assert_row_of(request_rows, slot, own, pivot)
        if own.size:
            assert_projected(request_rows.projections[slot], own, pivot)
    assert_peaks(peaks_of(seen), values, slot_of)


EDGES = [0.0, -0.0, 6.0, -6.0, 5.9, NEAR_ZERO, -NEAR_ZERO, 1.1 * NEAR_ZERO, 2.0**-126, 2.0**-14, 1e-40, -5e-5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 2, 60), (5, 3, 70), (2, 131, 20)])
def test_finite_values_on_every_edge_are_counted_in_the_common_walk(shape, dtype):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.choice(EDGES, shape)).to(dtype)
    values = plain(x)
    seen = Fold(kernel, shape[-1], 0.5, capacity=5)(x, list(range(shape[0])))
    expected = TapSketch.from_array(values, NEAR_ZERO, shape[0])
    assert_all_but_the_histogram_equal(seen.read(5)[0], expected, values, 0.5)


SHAPES = [(1, 1, 40), (1, 3, 1030), (5, 2, 70), (1, 130, 40)]


@pytest.mark.parametrize("shape", SHAPES)
def test_as_many_calls_as_its_share_show_the_histogram_every_value_once(shape):
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, shape).astype(np.float32)
    special = [0.0, -0.0, 2.0**-20, -(2.0**-19.9), 4096.0, -5000.0, -1e-30, 1e-40]
    if values.size < 1000:
        special += [np.nan, np.inf, -1e30]
    values.flat[: len(special)] = special
    slots = [*range(shape[0] - 1), -1] if shape[0] > 2 else list(range(shape[0]))
    seen = Fold(kernel, shape[-1], capacity=5)
    for _ in range(layout.HISTOGRAM_SHARE):
        seen(torch.from_numpy(values), slots)
    found, _ = seen.read(5)
    expected = TapSketch.from_array(values[np.array(slots) >= 0], NEAR_ZERO, 1)
    assert np.array_equal(found.histogram.counts, expected.histogram.counts)
    assert found.histogram.counts[BINS - 1] == 2


def test_a_call_shows_the_histogram_its_share_of_the_tiles():
    x = torch.randn(1, 512, 512)
    found, _ = Fold(kernel, 512)(x, [0]).read(1)
    assert found.histogram.total * layout.HISTOGRAM_SHARE == x.numel()


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_calls_leave_equal_bits(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    first, second = (Fold(kernel, shape[-1])(x, list(range(shape[0]))) for _ in range(2))
    assert all(map(torch.equal, first.state.buffers(), second.state.buffers()))


PATHS = {
    "alone": (1, 2, 70),
    "across rows": (5, 3, 70),
    "chunks of rows": (3, 130, 70),
    "convolution": (2, 40, 70),
    "few positions of a convolution": (3, 20, 70),
}
"""A shape for each way of `launch`."""


@pytest.fixture(params=PATHS)
def path(request):
    return request.param


def laid(values, path):
    """A convolution has its positions side by side."""
    x = torch.from_numpy(values.astype(np.float32))
    return x.mT.contiguous().mT if "convolution" in path else x


@pytest.mark.parametrize("spoiled", [0.0, 1e12, np.nan, np.inf], ids=["finite", "large", "nan", "infinite"])
def test_a_request_is_projected_over_its_finite_values_and_all_its_positions(path, spoiled):
    shape = PATHS[path]
    values = np.random.default_rng(0).normal(3, 1, shape).astype(np.float32)
    if spoiled:
        values[:, -1, 40] = spoiled
    _, rows = Fold(kernel, 70, pivot=1.5)(laid(values, path), range(shape[0])).read(shape[0])
    counted = np.where(np.isfinite(values), values, 1.5).astype(np.float64)
    assert rows.projections == pytest.approx(project(counted.mean(axis=1)), rel=1e-5, abs=1e-4)


def test_a_projection_that_float32_cannot_hold_is_infinite_throughout(path):
    values = np.ones(PATHS[path])
    values[0] = 3e38
    _, rows = Fold(kernel, 70)(laid(values, path), range(len(values))).read(len(values))
    assert np.isposinf(rows.projections[0]).all()
    assert np.isfinite(rows.projections[1:]).all()


@pytest.mark.parametrize("value", [2.0, -2.0, 3e38, -3e38])
def test_of_equal_magnitudes_the_first_requests_stays(path, value):
    x = laid(np.full(PATHS[path], value), path)
    slots = list(range(1, len(x) + 1))
    found = peaks_of(Fold(kernel, 70)(x, slots)(-x, [slot - 1 for slot in slots]))
    assert found.requests.tolist() == [1] * 70
    assert (found.values == np.float32(value)).all()


def test_of_equal_magnitudes_in_many_rows_that_of_the_lowest_slot_stays():
    found = peaks_of(Fold(kernel, 8)(torch.ones(140, 1, 8), [1] * 128 + [0] * 12))
    assert found.requests.tolist() == [0] * 8


def test_the_requests_that_drove_a_channel_are_named(make_recorder, make_request, tap):
    recorder, kept = make_recorder(), Strongest([tap], "plain")
    state = recorder.states[tap]
    for ids, x in (("ab", [[1.0, -5.0, 0.0], [2.0, 4.0, 0.0]]), ("cd", [[3.0, 6.0, 0.0], [-4.0, 1.0, 0.0]])):
        recorder.open([make_request(id) for id in ids])
        kernel(torch.tensor(x), -1, recorder.row_slot, 1, recorder.bank, *state.held, state.slots, NEAR_ZERO)
        recorder.close()
        kept.add(recorder.drain(0.0))
    for channel, expected in enumerate(([("d", -4.0), ("b", 2.0)], [("c", 6.0), ("a", -5.0)], [])):
        assert [(one.id, one.value) for one in kept.of(tap, channel, 1).requests] == expected


def test_a_convolutions_output_is_read_where_it_lies():
    x = torch.randn(2, 40, 6, 7)
    seen = Fold(kernel, 40)(x, [1, 0], channel_dim=1)
    values = plain(x, 1)
    assert_all_but_the_histogram_equal(
        seen.read(2)[0], TapSketch.from_array(values, NEAR_ZERO, 2), values, 0.0
    )


def test_several_activation_rows_belong_to_one_batch_row():
    x = torch.arange(1.0, 7.0)[:, None].expand(6, 4)
    found, rows = Fold(kernel, 4)(x, [1, -1, 0], per_slot=2).read(2)
    assert rows.mean.tolist() == [5.5, 1.5]
    assert found.counts.positions == 4


def test_the_bank_that_is_named_is_written_and_the_other_stays_empty():
    seen = Fold(kernel, 5)
    seen.bank.fill_(1)
    seen(torch.randn(2, 30, 5), [0, 1])
    assert seen.state.read(0, 2)[0] == TapSketch.empty(5)
    assert seen.state.read(1, 2)[0].counts.positions == 60


@pytest.mark.parametrize("shape", [(2, 30, 6), (2, 6), (5, 3, 5)])
def test_an_activation_that_its_state_was_not_made_for_is_refused_and_writes_nothing(shape):
    seen = Fold(kernel, 5)
    before = [buffer.clone() for buffer in seen.state.buffers()]
    with pytest.raises(ValueError, match="are no activation of up to"):
        seen(torch.randn(shape), [0, 1])
    assert all(map(torch.equal, before, seen.state.buffers()))
