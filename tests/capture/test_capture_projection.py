"""What the kernel keeps of each request's channel means, against the definition in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.sketch import PROJECTIONS, project, signs
from tests.capture.conftest import KERNELS, Fold
from tests.capture.test_capture_kernel import cases


def assert_projected(found, own, pivot):
    """own: [rows, positions, C] of one request."""
    own = own.reshape(-1, own.shape[-1]).astype(np.float64)
    if not np.isfinite(own).all() or np.abs(own).sum() > 1e36:
        return
    expected = project(own.mean(axis=0))
    reach = project(np.abs(own - pivot).mean(axis=0) * signs(own.shape[-1])) + abs(pivot) * own.shape[-1]
    assert (np.abs(found - expected) <= 2e-6 * reach + 1e-37).all()


@given(cases(), st.data())
@settings(max_examples=200, deadline=None)
def test_a_request_is_projected_as_the_definition_says_however_its_rows_are_cut(case, data):
    values = case.values
    if values.size == 0:
        return
    rows = len(values)
    slots = data.draw(st.lists(st.integers(-1, 2), min_size=rows, max_size=rows))
    seen = Fold(KERNELS[case.kernel], values.shape[-1], case.pivot)
    cut = data.draw(st.integers(0, rows))
    for part in (slice(cut), slice(cut, rows)):
        if slots[part]:
            seen(case.x[part], slots[part], case.channel_dim)
    _, found = seen.read(3)
    for slot in range(3):
        own = values[np.array(slots) == slot]
        if own.size:
            assert_projected(found.projections[slot], own, case.pivot)
        else:
            assert np.isnan(found.projections[slot]).all()


def test_a_projection_that_float32_cannot_hold_is_infinite_throughout(kernel):
    x = torch.full((2, 3, 5), 3e38)
    x[1] = 1.0
    _, found = Fold(kernel, 5)(x, [0, 1]).read(2)
    assert np.isposinf(found.projections[0]).all()
    assert np.isfinite(found.projections[1]).all()


def test_a_cleared_bank_projects_nothing_of_what_was_before(kernel):
    seen = Fold(kernel, 40)(torch.full((1, 3, 40), 9.0), [0])
    seen.state.clear(0, used=1, pivot=0.0)
    _, found = seen(torch.ones(1, 3, 40), [0]).read(1)
    assert np.allclose(found.projections[0], project(np.ones(40)))


def test_distances_between_vectors_are_kept_on_average():
    rng = np.random.default_rng(0)
    gaps = rng.normal(size=(2_000, 515))
    kept = (project(gaps) ** 2).sum(axis=1) / (gaps**2).sum(axis=1)
    assert kept.mean() == pytest.approx(1.0, abs=0.02)
    assert kept.std() < 1.2 * np.sqrt(2 / PROJECTIONS)


def test_signs_are_as_often_plus_as_minus():
    assert abs(signs(4096).mean()) < 0.05
