"""Checkpoints of the demo's classifier, evaluated as a user would."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from sidecar.cli import app
from sidecar.demo.model import build
from sidecar.errors import ConfigError
from sidecar.evaluate import find_checkpoints
from sidecar.timeline import History

STEPS = (100, 2000, 30_000)
CONFIG = """
[[models]]
name = "digits"
source = "sidecar.demo.model:build"
inputs = [{ name = "pixels", datatype = "FP32", shape = [-1, 64] }]
outputs = [{ name = "logits", datatype = "FP32", shape = [-1, 10] }]
threads = 1
batching = { max_rows = 8 }
"""


@pytest.fixture
def folder(tmp_path):
    """Settings, inputs, and checkpoints of growing weights."""
    (tmp_path / "sidecar.toml").write_text(CONFIG)
    (tmp_path / "checkpoints").mkdir()
    torch.manual_seed(0)
    weights = {name: tensor.clone() for name, tensor in build().state_dict().items()}
    for place, step in enumerate(STEPS):
        grown = {name: tensor * (1 + place) for name, tensor in weights.items()}
        save_file(grown, tmp_path / "checkpoints" / f"digits-v2-step{step}.safetensors")
    pixels = np.random.default_rng(0).uniform(0, 16, (40, 64)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", pixels=pixels)
    return tmp_path


def test_each_checkpoint_becomes_a_pane_of_its_step(folder):
    run = CliRunner().invoke(
        app,
        ["evaluate", "--config", str(folder / "sidecar.toml"), "--checkpoints", str(folder / "checkpoints"),
         "--inputs", str(folder / "inputs.npz")],
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    assert "3 steps, 100 to 30000" in run.output
    with History(folder / "activations.db", dict).open() as found:
        panes = found.steps("digits", "1")
        taps = panes[0].subject.taps
        assert [pane.start for pane in panes] == list(STEPS)
        assert {pane.requests for pane in panes} == {40}
        rms = found.values(panes, taps, "rms")
    assert np.all(np.diff(rms, axis=1) > 0)


def test_folders_with_a_model_file_are_checkpoints_too(tmp_path):
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").touch()
    assert list(find_checkpoints(tmp_path)) == [2, 10]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds no checkpoints"),
        (("last.safetensors",), "has no training step in its name"),
        (("a-1.safetensors", "b-1.safetensors"), "are both of step 1"),
    ],
)
def test_checkpoints_whose_step_cannot_be_told_are_refused(tmp_path, names, message):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=message):
        find_checkpoints(tmp_path)
