import numpy as np
import pytest

from sidecar.errors import SketchError, StoreError
from sidecar.sketch import TapSketch
from sidecar.timeline import History
from sidecar.timeline.steps import NEAR_ZERO, recording
from sidecar.types import Tap

TAP = Tap(3, "resid", "h.3", 4)


def activation(seed, rows=30):
    return np.random.default_rng(seed).standard_normal((rows, 2, 4)).astype(np.float32)


def steps(path):
    with History(path, dict).open() as found:
        return {int(pane.start): found.merged([pane], TAP) for pane in found.steps("gpt2", "run-7")}


def test_a_training_loop_keeps_what_it_adds_by_step(path):
    with recording(path, "gpt2", "run-7", clock=lambda: 0.0) as run:
        for number in (2000, 1000):
            with run.step(number) as step:
                for half in (number, number + 1):
                    step.add(3, "resid", activation(half), module="h.3")
    found = steps(path)
    assert list(found) == [1000, 2000]
    whole = TapSketch.from_array(np.concatenate([activation(1000), activation(1001)]), NEAR_ZERO, 60)
    assert found[1000].counts == whole.counts
    assert found[1000].moments.m2 == pytest.approx(whole.moments.m2)


def test_a_step_whose_block_raises_is_not_kept(path):
    with recording(path, "gpt2", "run-7", clock=lambda: 0.0) as run:

        def fail():
            with run.step(1) as step:
                step.add(3, "resid", activation(0), module="h.3")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
    assert steps(path) == {}


def test_a_layer_whose_width_changes_is_refused(path):
    with recording(path, "gpt2", clock=lambda: 0.0) as run, run.step(1) as step:
        step.add(0, "resid", activation(0))
        with pytest.raises(SketchError, match="cannot merge 3 channels into 4"):
            step.add(0, "resid", activation(0)[..., :3])


def test_a_store_that_cannot_be_opened_is_named(path):
    path.mkdir()
    with pytest.raises(StoreError, match=r"panes\.db cannot be opened"), recording(path, "gpt2"):
        pass
