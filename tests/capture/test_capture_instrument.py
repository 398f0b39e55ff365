"""Observers: what reaches the state of a tap, and what is a counted failure instead."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sidecar import capture
from sidecar.types import InferRequest, TapPoint


class Watched:
    """The observer of one tap point whose activations look like `example(rows)`."""

    def __init__(self, example, make_recorder, *, channel_dim=None, batched=True, max_rows=8):
        point = TapPoint("a", "a", channel_dim=channel_dim)
        small, large = ({"a": tuple(example(rows).shape)} for rows in (2, 3))
        planned = capture.plan([point], small, large, batched=batched)
        self.recorder = make_recorder(max_rows=max_rows)
        self.recorder.states.clear()
        self.observer = capture.observers(planned, self.recorder, slots=16, near_zero=2.0**-10)["a"]

    def __call__(self, x, requests, fold=None):
        """Sketch and rows of a batch of `requests`, True for one that is sampled."""
        assert self.recorder.open(
            [InferRequest(str(i), {}, 1, {"sidecar_sample": sampled}) for i, sampled in enumerate(requests)]
        )
        (fold or self.observer.fold)(x)
        self.recorder.close()
        reading = self.recorder.drain(0.0)
        return next(iter(reading.sketches.values())), next(iter(reading.rows.values()))


@pytest.fixture
def watch(make_recorder):
    return lambda example, **options: Watched(example, make_recorder, **options)


def test_each_request_gets_the_statistics_of_its_own_rows(watch):
    x = torch.randn(4, 7, 5)
    own = x.double().numpy()[[0, 2, 3]]
    _, rows = watch(lambda n: torch.zeros(n, 7, 5))(x, [True, False, True, True])
    assert np.allclose(rows.mean, own.mean((1, 2)), rtol=1e-5, atol=1e-7)
    assert np.array_equal(rows.absmax, np.abs(own).max((1, 2)))


def test_tokens_flattened_into_dimension_0_still_belong_to_their_requests(watch):
    x = torch.arange(1.0, 4.0).repeat_interleave(7)[:, None].expand(21, 3)
    _, rows = watch(lambda n: torch.zeros(7 * n, 3))(x, [True] * 3)
    assert rows.mean.tolist() == [1, 2, 3]


@pytest.mark.parametrize("tokens", [3, 20, 50])
def test_rows_that_cannot_be_told_apart_are_a_counted_failure_and_touch_nothing(watch, tokens):
    watched = watch(lambda n: torch.zeros(7 * n, 3))
    sketch, _ = watched(torch.randn(2 * tokens, 3), [True] * 2)
    assert watched.recorder.guard.failures["tap"] == 1
    assert sketch.counts.values == 0


def test_an_activation_of_another_width_is_a_counted_failure_and_touches_nothing(watch):
    watched = watch(lambda n: torch.zeros(n, 7, 3))
    sketch, _ = watched(torch.randn(2, 7, 9000), [True] * 2)
    assert watched.recorder.guard.failures["tap"] == 1
    assert sketch.counts.values == 0


def test_a_known_channel_dimension_is_kept_apart(watch):
    x = torch.zeros(2, 3, 9)
    x[:, 1] = 5.0
    sketch, _ = watch(lambda n: torch.zeros(n, 3, 9), channel_dim=1)(x, [True] * 2)
    assert sketch.channels.fires.tolist() == [0, 18, 0]


def test_without_a_batch_dimension_all_rows_are_one_request(watch):
    _, rows = watch(lambda n: torch.zeros(9, 3), batched=False, max_rows=0)(torch.full((40, 3), 2.0), [True])
    assert rows.mean.tolist() == [2.0]


def test_one_value_a_request_is_an_activation_of_one_channel(watch):
    sketch, rows = watch(torch.zeros)(torch.full((5,), 3.0), [True] * 5)
    assert len(sketch.channels.fires) == 1
    assert rows.mean.tolist() == [3.0] * 5


@pytest.mark.parametrize("channel_dim", [None, 1])
def test_the_op_with_its_arguments_sees_what_the_fold_sees(watch, channel_dim):
    watched = watch(lambda n: torch.zeros(n, 7, 5), channel_dim=channel_dim)
    x = torch.randn(3, 7, 5)
    sampled = [True, False, True]
    folded, folded_rows = watched(x, sampled)
    observer = watched.observer
    called, called_rows = watched(x, sampled, lambda x: observer.op(x, *observer.arguments))
    assert called.counts == folded.counts
    assert np.array_equal(called.channels.fires, folded.channels.fires)
    assert np.allclose(called_rows.mean, folded_rows.mean, rtol=1e-6)


def test_time_inside_a_fold_is_counted_as_telemetry(watch):
    watched = watch(lambda n: torch.zeros(n, 3))
    watched(torch.zeros(2, 3), [True] * 2)
    assert watched.recorder.nanoseconds > 0
