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
from sidecar.sketch import BINS, TapSketch
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
@settings(max_examples=20, deadline=None)
def test_the_kernels_find_what_the_definition_says_of_each_request_and_of_the_tap(case, data):
    values, pivot = case.values, case.pivot
    rows = len(values)
    slots = data.draw(st.lists(st.integers(-1, 3), min_size=rows, max_size=rows))
    seen = Fold(kernel, values.shape[-1], pivot, capacity=4)(case.x, slots or [-1], case.channel_dim)
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
