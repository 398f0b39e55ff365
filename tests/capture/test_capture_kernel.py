"""Every kernel against the definition in `TapSketch.from_array`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.capture.observe import OpState, as_rows, bind
from sidecar.capture.state import TapState
from sidecar.sketch import TapSketch
from tests.capture.conftest import KERNELS, NEAR_ZERO, Fold, plain

EXACT = 2.0**-44
TINY = 2.0**-126
SPECIAL = [
    0.0,
    -0.0,
    np.nan,
    np.inf,
    -np.inf,
    1e-40,
    -1e-40,
    3e-6,
    -6.0,
    2.0**-10,
    -(2.0**-10),
    7e4,
    3e38,
    -3e38,
]


@dataclass
class Case:
    kernel: str
    x: torch.Tensor
    channel_dim: int
    pivot: float
    values: np.ndarray


@st.composite
def cases(draw):
    """Activations of 1 to 4 dimensions, any float type, any strides, around and beyond the kernel's tiles."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dims = draw(st.integers(1, 4))
    rows, channels = (
        draw(st.integers(0, 4)),
        draw(st.sampled_from([0, 1, 2, 3, 7, 16, 65, 255, 256, 257, 300, 515])),
    )
    inner = [draw(st.sampled_from([0, 1, 2, 3, 5, 7])), draw(st.sampled_from([1, 2, 8, 9]))][
        : max(dims - 2, 0)
    ]
    if dims == 3:
        inner = [draw(st.sampled_from([0, 1, 15, 16, 17, 49, 70]))]
    shape = [rows, *inner, channels][: max(dims, 1)] if dims > 1 else [rows]
    size = np.prod(shape, dtype=int)
    values = rng.normal(
        draw(st.sampled_from([0.0, 0.5, 30.0, -1e3])), draw(st.sampled_from([1e-3, 1.0, 20.0])), size
    )
    chosen = rng.random(size) < draw(st.sampled_from([0.0, 0.01, 0.3]))
    with np.errstate(over="ignore"):
        values[chosen] = rng.choice(SPECIAL, chosen.sum())
        values *= draw(st.sampled_from([1.0, 1.0, 1.0, 1e-42, 1e5]))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]))
    x = torch.from_numpy(values).reshape(shape).to(dtype)
    channel_dim = -1
    if dims == 4:
        x, channel_dim = x.movedim(-1, 1), 1
        x = x.contiguous() if draw(st.booleans()) else x
    layout = draw(st.sampled_from(["dense", "transposed", "strided"]))
    if layout == "transposed" and dims > 1:
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided":
        x = torch.stack([x, torch.full_like(x, 9.0)], -1)[..., 0]
    pivot = float(np.float32(draw(st.sampled_from([0.0, 1.0, -37.5, 1e4]))))
    return Case(draw(st.sampled_from(sorted(KERNELS))), x, channel_dim, pivot, plain(x, channel_dim))


def assert_counts_equal(found, expected):
    assert found.counts == expected.counts
    assert np.array_equal(found.histogram.counts, expected.histogram.counts)
    assert found.channels.positions == expected.channels.positions
    for name in ("fires", "outliers", "absmax"):
        assert np.array_equal(getattr(found.channels, name), getattr(expected.channels, name)), name


def assert_sums_close(found, expected, values, pivot, rounding=1e-6):
    """A sum may be off by `rounding` of the sum of its terms' magnitudes, taken about the pivot, and each term
    by the smallest normal float32."""
    wide = values.reshape(-1, values.shape[-1]).astype(np.float64)
    wide = np.where(np.isfinite(wide), np.abs(wide), 0)
    # 63 values a channel are added one after another in float32.
    bound = 4 * rounding * (wide + abs(pivot)) + TINY
    assert (np.abs(found.channels.total - expected.channels.total) <= bound.sum(0)).all()
    reach = (4 * rounding * (wide + 2 * abs(pivot)) ** 2 + TINY).sum(0)
    assert (np.abs(found.channels.squares - expected.channels.squares) <= reach).all()
    ours, theirs = found.moments, expected.moments
    assert ours.n == theirs.n
    assert (ours.minimum, ours.maximum) == (theirs.minimum, theirs.maximum)
    if not theirs.n:
        return
    finite = values[np.isfinite(values)].astype(np.float64)
    away = np.abs(finite - theirs.mean) + abs(theirs.mean - pivot)
    assert abs(ours.mean - theirs.mean) <= rounding * away.mean() + EXACT * abs(theirs.mean)
    for power in (2, 3, 4):
        gap = abs(getattr(ours, f"m{power}") - getattr(theirs, f"m{power}"))
        assert gap <= (4 * rounding * away**power + TINY).sum(), power


@given(cases())
@settings(max_examples=300, deadline=None)
def test_a_kernel_finds_what_the_definition_says(case):
    values = case.values
    seen = Fold(KERNELS[case.kernel], values.shape[-1], case.pivot)(
        case.x, list(range(len(values))) or [-1], case.channel_dim
    )
    found, _ = seen.read(used=max(len(values), 1))
    if values.size == 0:
        assert found.counts == TapSketch.empty(values.shape[-1]).counts
        return
    expected = TapSketch.from_array(values, NEAR_ZERO, len(values))
    assert_counts_equal(found, expected)
    assert_sums_close(found, expected, values, case.pivot)


@given(cases(), st.data())
@settings(max_examples=200, deadline=None)
def test_rows_go_to_their_requests_and_unsampled_rows_leave_no_trace(case, data):
    values, pivot = case.values, case.pivot
    if values.size == 0:
        return
    slots = data.draw(st.lists(st.integers(-1, 3), min_size=len(values), max_size=len(values)))
    found, rows = Fold(KERNELS[case.kernel], values.shape[-1], pivot)(case.x, slots, case.channel_dim).read(4)
    slot_of = np.array(slots)
    observed = values[slot_of >= 0]
    expected = TapSketch.from_array(observed, NEAR_ZERO, len({*slots} - {-1}))
    assert_counts_equal(found, expected)
    if observed.size:
        assert_sums_close(found, expected, observed, pivot)
    for slot in range(4):
        assert_row_of(rows, slot, values[slot_of == slot], pivot)


def assert_row_of(rows, slot, own, pivot):
    finite = own[np.isfinite(own)].astype(np.float64)
    if not finite.size:
        assert np.isnan(rows.values[slot, :5]).all()
        assert rows.nonfinite[slot] == own.size or not own.size
        return
    size = np.abs(finite)
    reach = size.max() + abs(pivot)
    assert rows.nonfinite[slot] == own.size - finite.size
    assert rows.absmax[slot] == size.max()
    assert rows.near_zero_share[slot] == np.mean(size <= NEAR_ZERO)
    assert abs(rows.mean[slot] - finite.mean()) <= 1e-6 * reach
    assert abs(rows.rms[slot] ** 2 - np.mean(finite**2)) <= 1e-5 * reach**2 + TINY


@pytest.mark.parametrize("seed", range(3))
def test_the_kurtosis_of_a_request_is_that_of_its_own_values(kernel, seed):
    rng = np.random.default_rng(seed)
    values = (rng.standard_t(5, (3, 40, 33)) + 100).astype(np.float32)
    _, rows = Fold(kernel, 33, pivot=99.0)(torch.from_numpy(values), [2, -1, 0]).read(3)
    for slot, own in ((2, values[0]), (0, values[2])):
        assert rows.kurtosis[slot] == pytest.approx(
            TapSketch.from_array(own, NEAR_ZERO, 1).kurtosis, rel=1e-4
        )


def test_several_activation_rows_belong_to_one_batch_row(kernel):
    x = torch.arange(1.0, 7.0)[:, None].expand(6, 4)
    found, rows = Fold(kernel, 4)(x, [1, -1, 0], per_slot=2).read(2)
    assert rows.mean.tolist() == [5.5, 1.5]
    assert found.counts.positions == 4


def test_batches_add_up(kernel):
    x = torch.randn(2, 30, 5)
    once = Fold(kernel, 5)(x, [0, 1]).read(2)[0]
    twice = Fold(kernel, 5)(x, [0, 1])(x, [2, 3]).read(4)[0]
    once.merge(once.copy())
    assert_counts_equal(twice, once)


def test_the_other_bank_stays_empty(kernel):
    seen = Fold(kernel, 5)(torch.randn(2, 30, 5), [0, 1])
    assert seen.state.read(1, 2)[0] == TapSketch.empty(5)


def test_a_cleared_bank_is_empty_again(kernel):
    seen = Fold(kernel, 5)(torch.randn(2, 30, 5), [0, 1])
    seen.state.clear(0, used=2, pivot=0.25)
    assert seen.read(16)[0] == TapSketch.empty(5)


@pytest.mark.parametrize("shape", [(2, 30, 6), (2, 6), (5, 3, 5)])
def test_an_activation_that_its_state_was_not_made_for_is_refused_and_writes_nothing(kernel, shape):
    seen = Fold(kernel, 5)
    before = [buffer.clone() for buffer in seen.state.buffers()]
    with pytest.raises((ValueError, RuntimeError)):
        seen(torch.randn(shape), [0, 1])
    assert all(torch.equal(a, b) for a, b in zip(before, seen.state.buffers(), strict=True))


def test_an_activation_on_another_device_is_refused_and_not_read():
    with pytest.raises(ValueError, match="an activation on meta cannot be observed on a CPU"):
        Fold(KERNELS["bound"], 5)(torch.empty(2, 30, 5, device="meta"), [0, 1])


def test_an_expanded_view_is_read_as_it_looks(kernel):
    x = torch.tensor([[2.0], [3.0]]).expand(2, 7)
    assert Fold(kernel, 7)(x, [0, 1]).read(2)[1].mean.tolist() == [2, 3]


def test_whole_numbers_are_no_trouble(kernel):
    found, _ = Fold(kernel, 3)(torch.tensor([[0, 6, -7]]), [0]).read(1)
    assert (found.counts.zeros, found.counts.outliers) == (1, 2)


def test_values_that_fell_silent_far_from_the_pivot_still_have_an_rms(kernel):
    values = np.full((4, 50, 33), 1.3e-4, np.float32)
    _, rows = Fold(kernel, 33, pivot=-37.5)(torch.from_numpy(values), range(4)).read(4)
    assert np.all(rows.rms < 0.05)
    assert np.isnan(rows.kurtosis).all()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_images_are_read_in_place_in_either_memory_format(memory_format):
    x = torch.randn(2, 5, 3, 4).to(memory_format=memory_format)
    assert as_rows(x, 1).data_ptr() == x.data_ptr()


def test_an_activation_that_must_be_copied_is_copied_anew_each_time():
    state = TapState(5, 2, torch.device("cpu"))
    row_slot, bank = torch.arange(2, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    fold = bind(torch.device("cpu"), -1, OpState(row_slot, 1, bank, *state.held, 2, NEAR_ZERO))
    first, second = (torch.randn(2, 4, 3, 10)[..., ::2].transpose(1, 2) for _ in range(2))
    fold(first)
    fold(second)
    largest = torch.maximum(first.abs().amax((0, 1, 2)), second.abs().amax((0, 1, 2)))
    assert state.read(0, 2)[0].channels.absmax.tolist() == largest.tolist()
