"""Taps in a model that the test itself runs, as somebody else's server would."""

from __future__ import annotations

import json
import sqlite3
import threading
import urllib.request
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sidecar
from sidecar.attached import Attached
from sidecar.errors import ConfigError
from tests.app.factories import Noisy, Residual

NOW = 1_000_000.0
CONFIG = """
[[models]]
name = "ranker"
source = "tests.app.factories:Residual"
inputs = [{ name = "pixels", datatype = "FP32", shape = [-1, 64] }]
outputs = [{ name = "logits", datatype = "FP32", shape = [-1, 10] }]
batching = { max_rows = 8 }

[capture]
sample_rate = 1.0
budget = 1.0

[server]
http_port = 0
"""


@pytest.fixture
def model():
    return Residual().eval()


@pytest.fixture
def attach(configure):
    """`with attach(model) as attached:` with the settings of one model, everything sampled."""

    def attach(module, model=None, **sections):
        return Attached(
            module,
            configure({"source": "tests.app.factories:Residual", **(model or {})}, **sections),
            None,
            lambda: NOW,
        )

    return attach


def hooks(module):
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in module.modules())


def seen(attached):
    """Counts of the first tap; call it when `attached` is closed, so that everything is drained."""
    observation = attached._model.observation
    return observation.timeline.total(observation.taps[0]).counts


def call(module, rows):
    with torch.inference_mode():
        return module(torch.ones(rows, 64))


def get(attached, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{attached.port}{path}", timeout=10) as reply:
        return reply.read().decode()


def test_every_row_of_every_call_is_a_request(attach, model):
    with attach(model) as attached:
        for rows in (1, 3, 8):
            call(model, rows)
    assert seen(attached).requests == 12
    assert seen(attached).values == 12 * 64


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 8), min_size=1, max_size=8))
def test_no_request_is_lost_or_counted_twice(attach_once, sizes):
    model, attached = attach_once
    before = attached._model.observation.recorder.sampled
    for rows in sizes:
        call(model, rows)
    assert attached._model.observation.recorder.sampled - before == sum(sizes)


@pytest.fixture(scope="module")
def attach_once(configure):
    model = Residual().eval()
    configured = configure({"source": "tests.app.factories:Residual"})
    with Attached(model, configured, None, lambda: NOW) as attached:
        yield model, attached


def test_the_model_answers_the_same_bits(attach, model):
    plain = call(model, 5)
    with attach(model):
        assert torch.equal(call(model, 5), plain)


def test_rows_are_counted_where_the_model_is_called_by_keyword(attach, model):
    with attach(model) as attached:
        model(x=torch.ones(4, 64))
    assert seen(attached).requests == 4


def test_the_page_and_its_api_are_there(attach, model):
    with attach(model) as attached:
        call(model, 4)
        assert json.loads(get(attached, "/api/v1/openapi.json"))
        assert "<html" in get(attached, "/")


def test_what_was_seen_is_kept_where_the_settings_say_so(attach, model, tmp_path):
    with attach(model, store={"path": str(tmp_path / "panes.db")}):
        call(model, 4)
    with sqlite3.connect(tmp_path / "panes.db") as store:
        assert store.execute("select count(*) from pane").fetchone() > (0,)


def test_classes_that_the_model_answers_are_known(attach, model):
    with attach(model) as attached:
        taken = []
        take = attached._recorder._outputs.take
        attached._recorder._outputs.take = lambda *given: taken.append(take(*given)) or taken[-1]
        call(model, 4)
    (rows,) = taken
    assert (rows.predicted >= 0).all()


def test_outputs_that_are_not_those_of_the_settings_are_left_alone(attach, model):
    with attach(model) as attached:
        handle = model.register_forward_hook(lambda *_: "something else")
        call(model, 4)
        handle.remove()
        assert attached._recorder.guard.failures["sampling"] == 0
    assert seen(attached).requests == 4


def test_closing_takes_every_hook_out(attach, model):
    attached = attach(model)
    assert hooks(model) > 0
    attached.close()
    assert hooks(model) == 0


def test_a_wrong_tap_is_refused_and_leaves_no_hook(attach, model):
    with pytest.raises(ConfigError, match="no_such_tap"):
        attach(model, {"taps": ["no_such_tap"]})
    assert hooks(model) == 0


def test_a_port_that_is_taken_is_refused_and_leaves_no_hook(attach, model):
    with attach(Residual().eval()) as other, pytest.raises(ConfigError, match="cannot listen"):
        attach(model, server={"http_port": other.port})
    assert hooks(model) == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda model: ({"compile": True}, model), "compile"),
        (lambda model: ({}, model.train()), "training mode"),
        (lambda model: ({"device": "meta"}, model), "device"),
    ],
)
def test_what_an_attached_model_cannot_have_is_refused(attach, model, change, reason):
    changed, module = change(model)
    with pytest.raises(ConfigError, match=reason):
        attach(module, changed)


def test_a_model_that_fails_its_self_check_runs_on_unobserved(attach, configure):
    model = Noisy().eval()
    with attach(
        model, {"taps": ["layer"], "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 64]}]}
    ) as attached:
        call(model, 1)
        (told,) = json.loads(get(attached, "/readyz"))["models"]
        assert hooks(model) == 0
    assert told["instrumented"] is False
    assert "differs" in told["detail"]


def test_a_call_that_raises_raises_and_the_next_is_observed(attach, model):
    with attach(model) as attached:
        with pytest.raises(RuntimeError, match="shape"):
            model(torch.ones(2, 63))
        call(model, 3)
    assert seen(attached).requests == 3


def test_a_call_that_overlaps_an_observed_one_is_answered_and_not_mixed_into_it(attach, model):
    inside, go_on = threading.Event(), threading.Event()

    def wait(*_):
        if threading.current_thread() is other:
            inside.set()
            go_on.wait(30)

    with attach(model) as attached:
        model.blocks[0].register_forward_pre_hook(wait)
        other = threading.Thread(target=call, args=(model, 2))
        other.start()
        assert inside.wait(30)
        assert call(model, 2).shape == (2, 10)
        go_on.set()
        other.join()
    assert seen(attached).values == 2 * 64


def test_a_batch_over_max_rows_is_answered_unobserved_and_counted(attach, model):
    with attach(model) as attached:
        assert call(model, 9).shape == (9, 10)
        failures = attached._model.status().failures
    assert failures["sampling"] == 1
    assert seen(attached).requests == 0


def test_inference_is_timed_whether_or_not_it_is_observed(attach, model):
    with attach(model, capture={"sample_rate": 0.0}) as attached:
        call(model, 4)
        assert attached._model.status().inference_seconds > 0
    assert seen(attached).requests == 0


@pytest.mark.parametrize(("datatype", "dtype"), [("FP32", torch.float32), ("BF16", torch.bfloat16)])
def test_headroom_is_told_of_the_format_that_the_model_runs_in(attach, datatype, dtype):
    tensors = {
        "inputs": [{"name": "image", "datatype": datatype, "shape": [-1, 64]}],
        "outputs": [{"name": "logits", "datatype": datatype, "shape": [-1, 10]}],
    }
    with attach(Residual().eval().to(dtype), tensors) as attached:
        formats = attached._model.watched().formats
        assert set(formats.values()) == {str(dtype).removeprefix("torch.")}
        assert formats.keys() == set(attached._model.observation.taps)


def test_metrics_come_out_of_the_process(model, tmp_path: Path):
    (tmp_path / "sidecar.toml").write_text(CONFIG)
    attached = sidecar.attach(model, tmp_path / "sidecar.toml", environ={}, clock=lambda: NOW)
    try:
        call(model, 6)
        page = get(attached, "/metrics")
        assert 'sidecar_sampled_requests_total{model="ranker",version="1"} 6.0' in page
        assert "process_start_time_seconds" in page
    finally:
        attached.close()
    with pytest.raises(OSError, match="refused"):
        get(attached, "/livez")


def test_the_environment_wins_over_the_file(model, tmp_path: Path):
    (tmp_path / "sidecar.toml").write_text(CONFIG)
    with sidecar.attach(
        model, tmp_path / "sidecar.toml", environ={"SIDECAR_MODELS__0__NAME": "other"}
    ) as attached:
        assert 'model="other"' in get(attached, "/metrics")


def test_a_name_that_is_not_configured_is_refused_with_those_that_are(model, tmp_path: Path):
    (tmp_path / "sidecar.toml").write_text(CONFIG)
    with pytest.raises(ConfigError, match="no model 'reranker' is configured; there are ranker"):
        sidecar.attach(model, tmp_path / "sidecar.toml", name="reranker", environ={})
