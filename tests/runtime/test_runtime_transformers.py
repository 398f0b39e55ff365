"""Hugging Face models from a local folder, whole and without code of their own."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sidecar import runtime
from sidecar.errors import ConfigError, ModelError
from sidecar.settings import ModelSettings
from sidecar.types import Tensor

transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TEXT = [{"name": name, "datatype": "INT64", "shape": [-1, -1]} for name in ("attention_mask", "input_ids")]


@pytest.fixture(scope="session")
def made():
    """A classifier of three blocks."""
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL)
    return transformers.BertForSequenceClassification(config).eval()


@pytest.fixture
def folder(made, tmp_path):
    made.save_pretrained(tmp_path)
    return tmp_path


def load(folder, output="logits", datatype="FP32"):
    outputs = [{"name": output, "datatype": datatype, "shape": [-1, 2]}]
    return runtime.load(ModelSettings(name="m", path=folder, inputs=TEXT, outputs=outputs))


def batch(rows=2, length=5):
    numbers = np.random.default_rng(0)
    mask = np.ones((rows, length), np.int64)
    mask[0, -2:] = 0
    ids = numbers.integers(0, SMALL["vocab_size"], (rows, length))
    return {"attention_mask": Tensor("INT64", mask), "input_ids": Tensor("INT64", ids)}


def given(sent):
    return {name: torch.from_numpy(tensor.array) for name, tensor in sent.items()}


def test_it_answers_as_the_library_does_with_inputs_by_name(folder, made):
    sent = batch()
    with torch.inference_mode():
        expected = made(**given(sent)).logits
    assert torch.equal(torch.from_numpy(load(folder).plain(sent)["logits"].array), expected)


def test_blocks_are_tapped_as_the_residual_stream(folder):
    found = {point.name: (point.site, point.block) for point in load(folder).tap_points() if point.default}
    assert found == {f"bert.encoder.layer.{i}": ("resid", i) for i in range(3)}


def test_an_example_masks_nothing(folder):
    example = load(folder).example(3)
    assert (example["attention_mask"].array == 1).all()
    assert example["input_ids"].array.shape == (3, 8)


def test_a_decoder_in_bfloat16_keeps_its_type_and_no_cache(tmp_path):
    torch.manual_seed(0)
    kind = transformers.LlamaForCausalLM
    kind(transformers.LlamaConfig(**SMALL)).bfloat16().save_pretrained(tmp_path)
    decoder = kind.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    model = load(tmp_path, datatype="BF16")
    assert model._model.config.use_cache is False
    with torch.inference_mode():
        expected = decoder(**given(batch()), use_cache=False).logits.view(torch.uint16)
    assert torch.equal(torch.from_numpy(model.plain(batch())["logits"].array), expected)


def test_a_missing_weight_is_named_instead_of_made_up(folder):
    path = folder / "model.safetensors"
    held = load_file(path)
    del held["classifier.bias"]
    save_file(held, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks the weights classifier\.bias"):
        load(folder)


def test_a_weight_of_another_shape_is_refused(folder):
    path = folder / "model.safetensors"
    held = load_file(path)
    held["classifier.bias"] = torch.zeros(7)
    save_file(held, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)


def test_pickled_weights_are_refused(folder, made):
    (folder / "model.safetensors").unlink()
    torch.save(made.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"cannot be loaded: .*model\.safetensors"):
        load(folder)


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["NoSuchModel"]}, r"is a NoSuchModel, which is no model of transformers 5\."),
        ({"architectures": ["BertConfig"]}, "is a BertConfig, which is no model"),
        ({"architectures": [7]}, "is a 7, which is no model"),
        ({"architectures": []}, r"no config\.json that names its `architectures`"),
        ({"architectures": None}, r"no config\.json that names its `architectures`"),
        ({"model_type": "no-such-type"}, "cannot be loaded: .*no-such-type"),
    ],
)
def test_a_config_of_no_known_model_is_refused(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(ModelError, match=f"(?s){message}"):
        load(folder)


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load(tmp_path)


def test_code_that_comes_with_a_model_is_never_run(folder):
    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    edit(folder, auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})
    assert load(folder).plain(batch())["logits"].array.shape == (2, 2)


def test_kernels_that_a_config_names_are_never_fetched(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "transformers.modeling_utils.lazy_import_flash_attention", lambda *_, **__: asked.append(1)
    )
    edit(folder, attn_implementation="somebody/kernels", experts_implementation="somebody/kernels")
    assert load(folder)._model.config._attn_implementation in ("sdpa", "eager")
    assert asked == []


def test_without_the_library_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ConfigError, match=r"needs transformers: pip install 'activation-sidecar\[transformers\]'"
    ):
        load(folder)


def test_the_library_is_imported_only_for_such_a_folder():
    loaded = "import sys, sidecar.runtime.torch; print('transformers' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )


def test_a_package_made_of_such_a_model_returns_outputs_by_name(made, tmp_path):
    sent, sizes = batch(), {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(made, (), given(sent), dynamic_shapes=dict.fromkeys(sent, sizes))
    torch.export.save(program, tmp_path / "bert.pt2")
    outputs = [{"name": "logits", "datatype": "FP32", "shape": [-1, 2]}]
    model = runtime.load(
        ModelSettings(name="m", path=tmp_path / "bert.pt2", trust=True, inputs=TEXT, outputs=outputs)
    )
    with torch.inference_mode():
        expected = made(**given(sent)).logits
    assert torch.equal(torch.from_numpy(model.plain(sent)["logits"].array), expected)
    defaults = [point.name for point in model.tap_points() if point.default]
    assert defaults == [f"bert.encoder.layer.{i}" for i in range(3)]
