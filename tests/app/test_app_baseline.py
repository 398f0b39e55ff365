"""A reference from a file of requests."""

from __future__ import annotations

import numpy as np
import pytest

from sidecar.baseline.recording import record_baseline
from sidecar.errors import BaselineError, ConfigError
from sidecar.model import Model


def pixels(rows=70):
    return np.random.default_rng(0).uniform(0, 16, (rows, 64)).astype(np.float32)


@pytest.fixture
def record(configure, tmp_path):
    def record(model=None, capture=None, **arrays):
        path = tmp_path / "requests.npz"
        np.savez(path, **arrays)
        everything = configure(model, capture=capture or {})
        return record_baseline(everything.models[0], everything, path, lambda: 5.0)

    return record


def test_every_request_of_the_file_is_in_the_reference_in_order(record, configure):
    sent = pixels()
    reference = record(pixels=sent)
    assert reference.requests == 70
    assert len(reference.taps) == 6
    assert (reference.model, reference.version) == ("digits", "1")
    assert [sketch.counts.requests for sketch in reference.sketches] == [70] * 6
    assert not np.isnan(reference.rows).any()


def test_a_reference_knows_when_it_was_recorded(record):
    assert record(pixels=pixels()).created_at == 5.0


def test_fewer_slots_than_rows_of_a_batch_lose_no_request(record):
    reference = record({"batching": {"max_rows": 32}}, capture={"slots": 16}, pixels=pixels())
    assert reference.requests == 70


def test_a_recorded_baseline_is_what_a_model_is_judged_by(record, configure, tmp_path):
    path = tmp_path / "baseline"
    record(pixels=pixels()).save(path)
    everything = configure({"baseline": str(path)})
    model = Model(everything.models[0], everything, lambda: 0.0)
    state = model.observation.monitor.state()
    assert (state.reference_requests, state.reference_ready) == (70, True)


def test_the_settings_may_name_the_baseline_before_it_is_there(record, tmp_path):
    assert record({"baseline": str(tmp_path / "later")}, pixels=pixels()).requests == 70


def test_a_baseline_of_another_model_ends_the_start(record, configure, tmp_path):
    path = tmp_path / "baseline"
    record({"name": "letters"}, pixels=pixels()).save(path)
    everything = configure({"baseline": str(path)})
    with pytest.raises(BaselineError, match="was recorded from model letters, not digits"):
        Model(everything.models[0], everything, lambda: 0.0)


def test_a_baseline_of_other_taps_ends_the_start(record, configure, tmp_path):
    path = tmp_path / "baseline"
    record({"taps": ["blocks.0"]}, pixels=pixels()).save(path)
    everything = configure({"baseline": str(path)})
    with pytest.raises(BaselineError, match="the baseline has no tap 1/resid"):
        Model(everything.models[0], everything, lambda: 0.0)


def test_a_model_without_batch_dimension_takes_one_request_a_row(record):
    unbatched = {
        "source": "tests.app.factories:Unbatched",
        "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [4, 3]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [4]}],
        "taps": ["layer"],
        "batching": {"max_rows": 0},
    }
    sent = pixels(24).reshape(128, 4, 3)
    reference = record(unbatched, pixels=sent)
    assert reference.requests == 128
    assert np.allclose(reference.rows[0, :, 0], sent.mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": pixels()}, r"holds \['images'\], the model takes \['pixels'\]"),
        ({"pixels": pixels(), "more": pixels()}, r"holds \['more', 'pixels'\], the model takes \['pixels'\]"),
        ({}, r"holds \[\], the model takes \['pixels'\]"),
        ({"pixels": pixels().astype(np.float64)}, r"pixels is float64\[70, 64\], must be float32\[-1, 64\]"),
        ({"pixels": pixels()[:, :63]}, r"pixels is float32\[70, 63\], must be float32\[-1, 64\]"),
        ({"pixels": pixels()[0]}, r"pixels is float32\[64\], must be float32\[-1, 64\]"),
        ({"pixels": np.float32(3)}, r"pixels is float32\[\], must be float32\[-1, 64\]"),
        ({"pixels": pixels(0)}, r"holds {'pixels': 0} requests, must hold as many, and at least one"),
        ({"pixels": np.array([None])}, r"is not an npz file of arrays: Object arrays cannot be loaded"),
    ],
)
def test_a_file_that_does_not_fit_the_model_is_told_why(record, arrays, message):
    with pytest.raises(ConfigError, match=message):
        record(**arrays)


def test_inputs_with_different_numbers_of_requests_are_refused(record):
    two = [{"name": name, "datatype": "FP32", "shape": [-1, 3]} for name in ("a", "b")]
    with pytest.raises(ConfigError, match=r"holds {'a': 2, 'b': 3} requests, must hold as many"):
        record(
            {"source": "tests.app.factories:Noisy", "inputs": two},
            a=np.zeros((2, 3), np.float32),
            b=np.zeros((3, 3), np.float32),
        )


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "npy", "cut short"])
def test_what_is_no_npz_file_is_named(configure, tmp_path, kind):
    path = tmp_path / "requests.npz"
    if kind == "folder":
        path.mkdir()
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, pixels())
    elif kind == "cut short":
        np.savez(path, pixels=pixels())
        path.write_bytes(path.read_bytes()[:-30])
    elif kind != "missing":
        path.write_text("" if kind == "empty" else "pixels: 1")
    everything = configure()
    with pytest.raises(ConfigError, match=r"requests\.npz is not an npz file of arrays: "):
        record_baseline(everything.models[0], everything, path, lambda: 5.0)
