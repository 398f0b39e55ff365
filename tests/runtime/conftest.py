"""One model three ways: with hooks, as an exported package, and as compiled graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from sidecar import runtime
from sidecar.settings import ModelSettings
from sidecar.types import Observer, Tensor

DYNAMIC = torch.export.Dim.DYNAMIC

_SEEN: list[tuple[int, torch.Tensor]] = []
_LIBRARY = torch.library.Library("sidecar_tests", "DEF")
_LIBRARY.define("keep(Tensor x, int number, Tensor(a!) calls) -> ()")


def _keep(x: torch.Tensor, number: int, calls: torch.Tensor) -> None:
    calls += 1
    _SEEN.append((number, x.clone()))


_LIBRARY.impl("keep", _keep, "CPU")
torch.library.register_fake("sidecar_tests::keep", lambda *_: None, lib=_LIBRARY)


def observers(names: Sequence[str]) -> tuple[dict[str, Observer], list[tuple[str, torch.Tensor]]]:
    """Observers that keep what they see, and the list in which they keep it, in the order of the run."""
    folded: list[tuple[str, torch.Tensor]] = []
    op = torch.ops.sidecar_tests.keep.default
    made = {
        name: Observer(lambda x, name=name: folded.append((name, x.clone())), op, (number, torch.zeros(1)))
        for number, name in enumerate(names)
    }
    return made, folded


class Way:
    """A model under the torch runtime."""

    def __init__(self, settings: ModelSettings) -> None:
        self.model = runtime.load(settings)

    def batch(self, *inputs: torch.Tensor) -> dict[str, Tensor]:
        given = zip(self.model.inputs, inputs, strict=True)
        return {spec.name: Tensor(spec.datatype, value.numpy().copy()) for spec, value in given}

    def watch(self, names: Sequence[str]) -> Callable[..., list[tuple[str, torch.Tensor]]]:
        """Put observers at `names`: what they see of a batch, which both variants answer alike."""
        made, folded = observers(names)
        self.model.instrument(made)

        def look(*inputs: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
            batch = self.batch(*inputs)
            folded.clear()
            _SEEN.clear()
            answer, plain = self.model.instrumented(batch), self.model.plain(batch)
            for name, tensor in plain.items():
                assert answer[name].array.tobytes() == tensor.array.tobytes()
            return folded + [(list(names)[number], x) for number, x in _SEEN]

        return look

    def seen(self, names: Sequence[str], *inputs: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
        return self.watch(names)(*inputs)


DATATYPES = {torch.float32: "FP32", torch.int64: "INT64", torch.bfloat16: "BF16"}


def specs(tensors: Sequence[torch.Tensor], prefix: str) -> list[dict[str, object]]:
    return [
        {"name": f"{prefix}{i}", "datatype": DATATYPES[x.dtype], "shape": [-1, *x.shape[1:]]}
        for i, x in enumerate(tensors)
    ]


@pytest.fixture
def quick_graphs(monkeypatch):
    """Graphs as Dynamo and AOTAutograd make them, run without Inductor, whose compiler takes seconds."""
    real = torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda model, fullgraph, options: real(model, fullgraph=fullgraph, backend="aot_eager"),
    )
    monkeypatch.setattr("sidecar.runtime.compiled.require_compiler", lambda device: None)
    torch._dynamo.reset()


@pytest.fixture
def save(tmp_path):
    """`save(model, inputs)`: its package, with a free batch dimension unless `dynamic_shapes` says more."""

    def save(model: nn.Module, inputs: Sequence[torch.Tensor], **how) -> Path:
        path = tmp_path / "model.pt2"
        how = {"dynamic_shapes": tuple({0: DYNAMIC} for _ in inputs), **how}
        torch.export.save(torch.export.export(model.eval(), tuple(inputs), **how), path)
        return path

    return save


@pytest.fixture
def make(monkeypatch, save, quick_graphs):
    """`make(way, model, examples)`: the model under the runtime; `way` is `eager`, `exported` or `compiled`."""

    def make(way: str, model: nn.Module, examples: Sequence[torch.Tensor], **more) -> Way:
        source: dict[str, object] = {"source": "tests.runtime.factories:given"}
        if way == "exported":
            source = {"path": save(model, examples), "trust": True}
        monkeypatch.setattr("tests.runtime.factories.given", lambda: model, raising=False)
        return Way(
            ModelSettings(
                name="m",
                **source,
                outputs=[{"name": "y0", "datatype": "FP32", "shape": [-1]}],
                compile=way == "compiled",
                **{"inputs": specs(examples, "x"), "batching": {"max_rows": 4}, **more},
            ),
        )

    return make


@pytest.fixture
def random():
    """Normal values; weights that a test makes after asking for them are always the same, too."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)
