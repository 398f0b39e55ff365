"""Which tap points are chosen, and what they become as taps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import capture
from sidecar.capture.taps import ONE_REQUEST, channel_count, channel_dimension, rows_per_slot
from sidecar.errors import ConfigError, ModelError
from sidecar.types import TapPoint

POINTS = [
    TapPoint("embed", "embed"),
    TapPoint("blocks.0", "resid", 0, default=True),
    TapPoint("blocks.0.attn", "attn_out", 0),
    TapPoint("blocks.1", "resid", 1, default=True),
    TapPoint("blocks.1.attn", "attn_out", 1),
    TapPoint("norm", "norm"),
    TapPoint("head", "logits"),
]


def chosen(*globs):
    return [point.name for point in capture.choose(POINTS, globs)]


def test_without_globs_the_defaults_are_chosen():
    assert chosen() == ["blocks.0", "blocks.1"]


def test_globs_choose_in_the_models_order():
    assert chosen("head", "blocks.?.attn") == ["blocks.0.attn", "blocks.1.attn", "head"]


def test_globs_that_match_nothing_are_named_with_what_is_near():
    with pytest.raises(ConfigError) as refused:
        chosen("head", "block.1.*", "x")
    assert str(refused.value) == (
        "taps ['block.1.*', 'x'] match nothing; near are blocks.1, blocks.1.attn, blocks.0; "
        "without `taps`, `sidecar taps` lists all there is"
    )


def shapes(points, rows):
    return {point.name: (rows, 4) for point in points}


def plan(points):
    return capture.plan(points, shapes(points, 2), shapes(points, 3), batched=True)


def test_without_points_the_message_says_how_to_go_on():
    with pytest.raises(ModelError, match="no blocks or stages were found: name what to tap in `taps`"):
        plan([])


def test_layers_are_blocks_and_the_others_count_on():
    ran = [POINTS[i] for i in (0, 2, 1, 4, 3, 5, 6)]
    found = [(placed.tap.layer, placed.tap.site, placed.tap.module) for placed in plan(ran)]
    assert found == [
        (0, "embed", "embed"),
        (0, "attn_out", "blocks.0.attn"),
        (0, "resid", "blocks.0"),
        (1, "attn_out", "blocks.1.attn"),
        (1, "resid", "blocks.1"),
        (2, "norm", "norm"),
        (3, "logits", "head"),
    ]


sites = st.sampled_from(["resid", "attn_out", "mlp_out"])
points = st.lists(st.tuples(sites, st.none() | st.integers(0, 2)), min_size=1, max_size=8)


@given(points)
def test_no_two_taps_share_layer_and_site(drawn):
    planned = plan([TapPoint(f"m{i}", site, block) for i, (site, block) in enumerate(drawn)])
    assert len({placed.tap.key for placed in planned}) == len(drawn)
    layers = [placed.tap.layer for placed in planned]
    assert layers == sorted(layers)
    assert layers[0] >= 0


def test_a_point_that_did_not_run_is_named():
    with pytest.raises(ModelError, match=r"taps \['head'\] gave no activation in a trial run"):
        capture.plan(POINTS, shapes(POINTS[:-1], 2), shapes(POINTS[:-1], 3), batched=True)


@pytest.mark.parametrize(
    ("known", "shape", "dimension", "channels"),
    [
        (None, (8,), -1, 1),
        (None, (8, 3), -1, 3),
        (None, (8, 2, 3), -1, 3),
        (None, (8, 2, 3, 4), 1, 2),
        (1, (8, 2, 3), 1, 2),
        (-1, (8, 2, 3, 4), -1, 4),
        (1, (8,), -1, 1),
    ],
)
def test_channels_are_where_the_point_says_or_else_the_shape(known, shape, dimension, channels):
    point = TapPoint("a", "a", channel_dim=known)
    assert channel_dimension(point, shape) == dimension
    assert channel_count(point, shape) == channels


def test_a_plan_carries_the_channel_dimension_and_the_rows():
    point = TapPoint("a", "a", channel_dim=1)
    (placed,) = capture.plan([point], {"a": (14, 5, 9)}, {"a": (21, 5, 9)}, batched=True)
    assert (placed.tap.channels, placed.channel_dim, placed.rows_per_slot) == (5, 1, 7)


def test_without_a_batch_dimension_all_rows_are_one_request():
    assert rows_per_slot("a", {"a": (9, 3)}, {"a": (9, 3)}, batched=False) == ONE_REQUEST


@pytest.mark.parametrize(
    ("small", "large"), [((7, 2), (7, 3)), ((5, 5), (5, 5)), ((3, 2), (4, 2)), ((3, 2), (2, 2))],
    ids=["sequence first", "no batch", "one row more", "shrinking"],
)  # fmt: skip
def test_an_activation_whose_dimension_0_is_not_the_batch_is_refused(small, large):
    with pytest.raises(
        ModelError, match=rf"dimension 0 of a is {small[0]} for a batch of 2 and {large[0]} for 3"
    ):
        rows_per_slot("a", {"a": small}, {"a": large}, batched=True)
