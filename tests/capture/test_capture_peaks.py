"""Where each channel's largest magnitude stands, against a search through all values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.capture.observe import observe
from tests.capture.conftest import KERNELS, NEAR_ZERO, Fold
from tests.capture.test_capture_kernel import cases


def peaks_of(fold):
    return fold.state.found_peaks(fold.state.contents(0))


@given(cases(), st.data())
@settings(max_examples=200, deadline=None)
def test_a_peak_stands_in_a_request_that_has_that_value_however_its_rows_are_cut(case, data):
    values = case.values
    if values.size == 0:
        return
    rows = len(values)
    slots = np.array(data.draw(st.lists(st.integers(-1, 3), min_size=rows, max_size=rows)))
    seen = Fold(KERNELS[case.kernel], values.shape[-1], case.pivot)
    cut = data.draw(st.integers(0, rows))
    for part in (slice(cut), slice(cut, rows)):
        if slots[part].size:
            seen(case.x[part], slots[part].tolist(), case.channel_dim)
    assert_peaks(peaks_of(seen), values, slots)


def assert_peaks(found, values, slots):
    """values [rows, positions, C], slots [rows]."""
    finite = np.where(np.isfinite(values), values, 0).astype(np.float32)
    largest = np.abs(finite[slots >= 0]).max(axis=(0, 1), initial=0.0)
    assert np.array_equal(np.abs(found.values), largest)
    assert np.array_equal(found.requests >= 0, largest > 0)
    own = (slots[:, None] == found.requests)[:, None]
    stands = (own & (finite == found.values)).any(axis=(0, 1))
    assert stands[largest > 0].all()


@pytest.mark.parametrize("sign", [1, -1])
def test_of_equal_magnitudes_the_first_requests_stays(kernel, sign):
    x = torch.full((3, 40, 5), 2.0 * sign)
    found = peaks_of(Fold(kernel, 5)(x, [1, 2, 3])(-x, [0, 1, 2]))
    assert found.requests.tolist() == [1] * 5
    assert found.values.tolist() == [2.0 * sign] * 5


def test_a_bank_that_was_cleared_remembers_no_peak(kernel):
    seen = Fold(kernel, 5)(torch.full((2, 30, 5), -3.0), [1, 2])
    assert peaks_of(seen).values.tolist() == [-3.0] * 5
    seen.state.clear(0, used=3, pivot=0.0)
    assert peaks_of(seen).requests.tolist() == [-1] * 5


def test_a_reading_names_the_request_of_each_peak(make_recorder, make_request, tap):
    recorder = make_recorder()
    recorder.open([make_request("a"), make_request("b")])
    state = recorder.states[tap]
    x = torch.tensor([[1.0, -5.0, 0.0], [2.0, 4.0, 0.0]])
    observe(x, -1, recorder.row_slot, 1, recorder.bank, *state.held, state.slots, NEAR_ZERO)
    recorder.close()
    reading = recorder.drain(0.0)
    found = reading.peaks[tap]
    assert [reading.ids[place] for place in found.requests[:2]] == ["b", "a"]
    assert found.requests[2] == -1
    assert found.values.tolist() == [2.0, -5.0, 0.0]
