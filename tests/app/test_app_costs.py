"""What `sidecar taps` and `sidecar check` say a tap costs."""

from __future__ import annotations

import pytest

from sidecar import costs
from sidecar.errors import ConfigError, ModelError


def modules(configure, **model):
    everything = configure(model)
    return {row.module: row for row in costs.modules(everything.models[0], everything.capture)}


def test_every_module_that_runs_is_listed_with_the_shape_of_one_request(configure):
    rows = modules(configure)
    assert rows["blocks.0"].shape == (16, 128)
    assert rows["blocks.5.mlp.1"].shape == (16, 512)
    assert rows["head"].shape == (10,)
    assert "blocks" not in rows


def test_the_chosen_ones_are_marked(configure):
    chosen = [name for name, row in modules(configure, taps=["head", "blocks.1"]).items() if row.chosen]
    assert chosen == ["blocks.1", "head"]


def test_a_cost_is_positive_and_the_wider_activation_costs_more(configure):
    rows = modules(configure)
    assert all(row.seconds > 0 and row.share > 0 for row in rows.values())
    assert rows["blocks.0.mlp.1"].seconds > rows["head"].seconds


def test_a_model_without_batch_dimension_has_costs_too(configure):
    rows = modules(
        configure,
        source="tests.app.factories:Unbatched",
        inputs=[{"name": "pixels", "datatype": "FP32", "shape": [4, 3]}],
        outputs=[{"name": "logits", "datatype": "FP32", "shape": [4]}],
        taps=["layer"],
        batching={"max_rows": 0},
    )
    assert rows["layer"].shape == (4, 3)


def test_taps_that_match_nothing_are_refused(configure):
    with pytest.raises(ConfigError, match="match nothing"):
        modules(configure, taps=["nope"])


def test_inputs_that_do_not_fit_are_told_by_shape(configure):
    wrong = [{"name": "pixels", "datatype": "FP32", "shape": [-1, 63]}]
    with pytest.raises(ModelError, match=r"model digits does not run on pixels \[1, 63\]: "):
        modules(configure, inputs=wrong)


def test_a_model_without_default_taps_is_listed_all_the_same(configure):
    three = {"datatype": "FP32", "shape": [-1, 3]}
    rows = modules(
        configure,
        source="tests.app.factories:Noisy",
        inputs=[{"name": "pixels", **three}],
        outputs=[{"name": "logits", **three}],
    )
    assert [(row.module, row.chosen) for row in rows.values()] == [("layer", False)]
