"""The compiled kernels against the definition in `TapSketch.from_array`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sidecar.capture.layout import HISTOGRAM_SHARE
from sidecar.sketch import project

SHAPES = [
    (1, 1, 4096),
    (1, 3, 700),
    (1, 1, 8192),
    (7, 1, 257),
    (3, 130, 515),
    (2, 2048, 1024),
    (5, 2, 1),
    (9,),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def activation(shape, dtype, special, share):
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, 3.0, shape)
    chosen = rng.random(shape) < share
    values[chosen] = rng.choice(special, chosen.sum())
    return torch.from_numpy(values.astype(np.float32)).to("cuda", dtype)


def assert_agree(found, expected):
    assert found.counts == expected.counts
    for name in ("fires", "outliers", "absmax"):
        assert np.array_equal(getattr(found.channels, name), getattr(expected.channels, name)), name
    assert np.allclose(found.channels.squares, expected.channels.squares, rtol=1e-5)
    ours, theirs = found.moments, expected.moments
    assert (ours.n, ours.minimum, ours.maximum) == (theirs.n, theirs.minimum, theirs.maximum)
    assert ours.rms == pytest.approx(theirs.rms, rel=1e-5)
    assert ours.m4 == pytest.approx(theirs.m4, rel=1e-4)


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernels_find_what_the_definition_says(fold, definition, special, shape, dtype, share):
    x = activation(shape, dtype, special, share)
    rows = x.reshape(shape[0], -1, shape[-1] if len(shape) > 1 else 1)
    slots = [row if row % 3 != 1 else -1 for row in range(shape[0])]
    seen = fold(rows.shape[2], pivot=0.25)(x, slots)
    observed = rows[[slot >= 0 for slot in slots]]
    assert_agree(seen.read(16)[0], definition(observed, len(observed)))


@pytest.mark.parametrize("shape", [(1, 1, 4096), (2, 150, 300), (3, 2, 70)])
def test_as_many_calls_as_its_share_show_the_histogram_every_value_once(fold, definition, special, shape):
    x = activation(shape, torch.float32, special, 0.05)
    seen = fold(shape[-1])
    for _ in range(HISTOGRAM_SHARE):
        seen(x, range(shape[0]))
    found, _ = seen.read(shape[0])
    assert np.array_equal(found.histogram.counts, definition(x, shape[0]).histogram.counts)


@pytest.mark.parametrize("shape", [(2, 40, 6, 7), (2, 40, 56, 56)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_convolutions_output_is_read_where_it_lies(fold, definition, special, shape, memory_format):
    x = activation(shape, torch.float32, special, 0.0).contiguous(memory_format=memory_format)
    expected = definition(x.movedim(1, -1).flatten(1, 2), 2)
    assert_agree(fold(40)(x, [0, 1], channel_dim=1).read(2)[0], expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_calls_leave_equal_bits(fold, special, shape):
    x = activation(shape, torch.bfloat16, special, 0.01)
    channels = shape[-1] if len(shape) > 1 else 1
    first, second = (fold(channels)(x, range(shape[0])) for _ in range(2))
    assert torch.equal(torch.cat(first.state.pack(0)), torch.cat(second.state.pack(0)))


@pytest.mark.parametrize("share", [0.0, 0.01])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_each_request_is_projected_over_its_finite_values(fold, special, shape, dtype, share):
    x = activation(shape, dtype, special[~(np.isfinite(special) & (np.abs(special) > 1e5))], share)
    _, rows = fold(shape[-1], pivot=0.25)(x, range(shape[0])).read(shape[0])
    values = x.double().cpu().numpy()
    expected = project(np.where(np.isfinite(values), values, 0.25).mean(axis=1))
    reach = np.nan_to_num(np.abs(values), posinf=0.0).mean(axis=1).sum(axis=1, keepdims=True)
    assert (np.abs(rows.projections - expected) <= 1e-5 * reach + 1e-4).all()


@pytest.mark.parametrize("share", [0.0, 0.01])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_each_channels_largest_magnitude_stands_in_the_request_that_is_named(
    fold, special, shape, dtype, share
):
    x = activation(shape, dtype, special, share)
    seen = fold(shape[-1])(x, range(shape[0]))
    found = seen.state.found_peaks(seen.state.unpack(torch.cat(seen.state.pack(0)).cpu()))
    values = x.float().cpu().numpy()
    values[~np.isfinite(values)] = 0
    assert np.array_equal(np.abs(found.values), np.abs(values).max(axis=(0, 1)))
    of_request = values.transpose(2, 0, 1)[np.arange(shape[-1]), np.maximum(found.requests, 0)]
    assert (of_request == found.values[:, None]).any(axis=1).all()


def test_each_request_has_the_statistics_of_its_own_values(fold):
    values = np.random.default_rng(0).standard_t(5, (3, 300, 257)).astype(np.float32) + 100
    _, rows = fold(257, pivot=99.0)(torch.from_numpy(values).cuda(), [2, -1, 0]).read(3)
    for slot, own in ((2, values[0].astype(np.float64)), (0, values[2].astype(np.float64))):
        assert rows.mean[slot] == pytest.approx(own.mean(), rel=1e-6)
        assert rows.kurtosis[slot] == pytest.approx(
            np.mean((own - own.mean()) ** 4) / own.var() ** 2, rel=1e-3
        )
    assert np.isnan(rows.values[1]).all()
