"""Packages of `torch.export`: loaded only when trusted, and tapped as the model that they were made from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sidecar import runtime
from sidecar.errors import ModelError
from sidecar.runtime import exported, modules
from sidecar.settings import ModelSettings
from tests.runtime.conftest import DYNAMIC
from tests.runtime.factories import Nested, Stages, Transformer

CPU = torch.device("cpu")
FLOATS = {"datatype": "FP32", "shape": [-1, 3]}


def load(path, inputs=("x0",), **more):
    named = [{"name": name, **FLOATS} for name in inputs]
    outputs = [{"name": "y", **FLOATS}]
    settings = {"name": "m", "path": path, "trust": True, "inputs": named, "outputs": outputs, **more}
    return runtime.load(ModelSettings(**settings))


def test_a_package_is_refused_without_trust_because_loading_it_runs_code(save, random):
    path = save(nn.Linear(3, 3), [random(2, 3)])
    with pytest.raises(ModelError, match=r"model\.pt2 .* runs code that it carries\. Set trust = true"):
        load(path, trust=False)


def test_without_trust_the_file_is_not_even_opened(tmp_path):
    with pytest.raises(ModelError, match="trust = true"):
        load(tmp_path / "gone.pt2", trust=False)


@pytest.mark.parametrize("content", [None, b"", b"no package at all"])
def test_a_file_that_is_no_package_is_named(tmp_path, content):
    path = tmp_path / "broken.pt2"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"path .*broken\.pt2 is no torch\.export package"):
        load(path)


def test_a_path_of_another_kind_is_told_what_there_is(tmp_path):
    with pytest.raises(ModelError, match=r"weights\.bin must be a \.pt2 package or a Hugging Face folder"):
        load(tmp_path / "weights.bin")


class Named(nn.Module):
    """Takes one input by position and two by name."""

    def forward(self, x, *, plus, minus):
        return x + plus - minus


def test_inputs_go_by_position_or_by_name_as_the_package_takes_them(save, random):
    x, plus, minus = random(2, 3), random(2, 3), random(2, 3)
    free = {name: {0: DYNAMIC} for name in ("x", "plus", "minus")}
    path = save(Named(), [x], kwargs={"plus": plus, "minus": minus}, dynamic_shapes=free)
    model = load(path, inputs=("x", "minus", "plus"))
    batch = model.example(2)
    given = {name: torch.from_numpy(tensor.array) for name, tensor in batch.items()}
    expected = given["x"] + given["plus"] - given["minus"]
    assert torch.equal(torch.from_numpy(model.plain(batch)["y"].array), expected)


def program(save, model, inputs, **how):
    package, _ = exported.load(save(model.eval(), inputs, **how), CPU, trust=True)
    return package.module()


def by_name(point):
    return point.name


@pytest.mark.filterwarnings("ignore:The tensor attributes self.0._flat_weights")
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Transformer(), (2, 7, 2)),
        (Stages(), (2, 3, 8, 8)),
        (Nested(), (2, 4, 9)),
        (nn.Sequential(nn.LSTM(3, 3, batch_first=True)), (2, 7, 3)),
    ],
    ids=["transformer", "stages", "nested stages", "lstm"],
)
def test_its_tap_points_are_those_of_the_model_itself(save, random, model, shape, strict):
    found = exported.tap_points(program(save, model, [random(*shape)], strict=strict))
    assert sorted(found, key=by_name) == sorted(modules.tap_points(model), key=by_name)


class Recurrent(nn.Module):
    """Uses all three results of an LSTM."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 3, batch_first=True)

    def forward(self, x):
        output, (hidden, cell) = self.lstm(x)
        return output + hidden[0].unsqueeze(1) + cell[0].unsqueeze(1)


@pytest.mark.filterwarnings("ignore:The tensor attributes self.lstm")
def test_of_several_results_of_one_operation_the_first_is_the_activation(make, random):
    x, model = random(2, 5, 3), Recurrent().eval()
    ((_, seen),) = make("exported", model, [x]).seen(["lstm"], x)
    with torch.inference_mode():
        assert torch.equal(seen, model.lstm(x)[0])


def test_both_variants_stand_on_the_same_weights(make, random):
    x = random(2, 5, 2)
    watched = make("exported", Transformer().eval(), [x])
    watched.watch(["blocks.0"])
    plain, variant = watched.model._model, watched.model._instrumented
    assert variant is not plain
    assert all(a is b for a, b in zip(plain.parameters(), variant.parameters(), strict=True))


def test_a_package_answers_as_the_model_that_it_was_made_from(make, random):
    x, model = random(3, 5, 2), Transformer().eval()
    watched = make("exported", model, [x])
    answer = watched.model.plain(watched.batch(x))["y0"].array
    assert torch.equal(torch.from_numpy(answer), model(x).detach())
