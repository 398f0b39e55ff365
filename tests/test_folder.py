"""A folder of models in Triton's layout, and everything in it that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar import folder, settings
from sidecar.configured import Configured
from sidecar.errors import ConfigError
from sidecar.folder import ModelFolder

KEYS = """
inputs = [{name = "x", datatype = "FP32", shape = [-1, 3]}]
outputs = [{name = "y", datatype = "FP32", shape = [-1, 3]}]
"""


@pytest.fixture
def repository(tmp_path):
    """Writes model `m`: its model.toml, and for each version the names of its files; gives the repository."""

    def repository(versions, text=KEYS, name="m"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.toml").write_text(text)
        for version, files in versions.items():
            (tmp_path / name / version).mkdir()
            for file in files:
                (tmp_path / name / version / file).write_bytes(b"")
        return tmp_path

    return repository


def model(path, *, trust=False):
    return ModelFolder(path, "m", trust=trust)


def configured(path, models=(), **more):
    tree = {"models": list(models), "repository": {"path": str(path), **more}}
    return Configured(settings.resolve(tree, {}, base=Path()))


def test_each_version_has_the_keys_of_its_model_and_its_own_file(repository):
    path = repository({"1": ["model.onnx"], "2": ["model.onnx", "notes.txt"]}, KEYS + "threads = 3")
    found = [model(path).version(version) for version in ("1", "2")]
    assert [(one.name, one.version, one.runtime, one.threads) for one in found] == [
        ("m", "1", "onnx", 3), ("m", "2", "onnx", 3),
    ]  # fmt: skip
    assert [one.path for one in found] == [path / "m" / version / "model.onnx" for version in ("1", "2")]


def test_weights_go_with_the_factory_and_packages_with_trust(repository):
    keys = KEYS + 'source = "package.module:build"\ntrust = true'
    path = repository({"1": ["model.safetensors"], "2": ["model.pt2"], "3": ["model.onnx"]}, keys)
    weights, package, graph = (model(path, trust=True).version(version) for version in "123")
    assert (weights.source, weights.weights, weights.path) == (
        "package.module:build", path / "m/1/model.safetensors", None,
    )  # fmt: skip
    assert (package.runtime, package.source, package.path, package.trust) == (
        "torch", None, path / "m/2/model.pt2", True,
    )  # fmt: skip
    assert (graph.runtime, graph.trust) == ("onnx", False)


def test_only_folders_named_by_a_number_are_versions(repository):
    path = repository({name: ["model.onnx"] for name in ("10", "9", "01", "0", "beta", ".cache", "1e3", "٣")})
    assert folder.versions(path, "m") == ["9", "10"]


def test_files_and_hidden_folders_are_no_models(repository):
    path = repository({"1": ["model.onnx"]})
    (path / "README.md").write_text("")
    (path / ".git").mkdir()
    assert folder.names(path) == ["m"]


def test_without_a_policy_the_highest_version_is_served(repository):
    path = repository({"1": ["model.onnx"], "2": ["model.onnx"]})
    assert configured(path).model("m").from_the_start() == ["2"]


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("version_policy = {all = true}", ["1", "2", "3"]),
        ("version_policy = {latest = 2}", ["2", "3"]),
        ("version_policy = {specific = [1, 3]}", ["1", "3"]),
        ("canary = {3 = 0.1}", ["2", "3"]),
        ("load = false", []),
    ],
)
def test_the_policy_chooses_what_is_served_from_the_start(repository, policy, versions):
    path = repository({version: ["model.onnx"] for version in "123"}, KEYS + policy)
    assert configured(path).model("m").from_the_start() == versions


def test_a_version_that_is_still_being_copied_does_not_stand_in_the_way_of_another(repository):
    path = repository({"1": ["model.onnx"], "2": []})
    assert model(path).version("1").path == path / "m/1/model.onnx"
    with pytest.raises(ConfigError, match=r"m/2 holds no model, must hold one of model\.onnx, model\.pt2"):
        model(path).version("2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "model.toml is not TOML"),
        (KEYS + "thread = 1", "model.toml: thread is not a setting; there are name, version"),
        (KEYS + "threads = -1", "model.toml: threads is -1, must be at least 0"),
        ("", "model.toml: inputs is missing and must be given"),
        (KEYS + "device = 3.5", None),
        (KEYS + 'name = "m"', "model.toml: name does not stand here, the folders and files say it"),
        (KEYS + 'path = "/etc/passwd"', "model.toml: path does not stand here"),
        (KEYS + 'weights = "x"', "model.toml: weights does not stand here"),
        (KEYS + 'source = "os:abort"', "model.toml: source runs code, which needs repository.trust = true"),
        (KEYS + "trust = true", "model.toml: trust runs code, which needs repository.trust = true"),
        (KEYS + "canary = {2 = 0.1}", "model.toml: model m: canary names version 2, there are 1"),
        (KEYS + "canary = {1 = 1.5}", "model.toml: canary.1 is 1.5, must be at most 1"),
        (
            KEYS + "version_policy = {specific = [7]}",
            "model.toml: model m: version_policy names version 7, there are 1",
        ),
        (KEYS + "version_policy = {}", "model.toml: version_policy: give one of all = true, latest = N"),
        (KEYS + 'baseline = "../b"', "model.toml: baseline is '../b', must lie in the model's folder"),
        (KEYS + 'baseline = "/b"', "model.toml: baseline is '/b', must lie in the model's folder"),
    ],
)
def test_a_refusal_names_file_and_key(repository, text, message):
    path = repository({"1": ["model.onnx"]}, text)
    if message is None:
        assert model(path).version("1").device == "3.5"
        return
    with pytest.raises(ConfigError) as refused:
        model(path).version("1")
    assert str(path / "m" / "model.toml") in str(refused.value)
    assert message in str(refused.value)


def test_weights_without_a_factory_are_refused(repository):
    with pytest.raises(ConfigError, match=r"model\.toml: source is missing, the factory whose weights"):
        model(repository({"1": ["model.safetensors"]})).version("1")


def test_two_models_in_a_version_are_refused(repository):
    with pytest.raises(ConfigError, match=r"m/1 holds model\.onnx and model\.pt2, must hold one"):
        model(repository({"1": ["model.onnx", "model.pt2"]})).version("1")


def test_a_model_without_versions_or_without_its_file_is_refused(repository):
    path = repository({})
    with pytest.raises(ConfigError, match="m has no version, must have folders named 1, 2"):
        model(path)
    (path / "m" / "1").mkdir()
    (path / "m" / "model.toml").unlink()
    with pytest.raises(ConfigError, match=r"model\.toml is missing; it holds the model's keys"):
        model(path)


@pytest.mark.parametrize(
    "place", ["link", "m/2", "m/model.toml", "m/1/model.onnx", "m/baseline", "m/notes/b"]
)
@pytest.mark.parametrize("target", ["outside", "inside"])
def test_no_symbolic_link_is_followed(repository, place, target, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "file").write_text(KEYS)
    path = repository({"1": ["model.onnx"], "3": ["model.onnx"]}, KEYS + f'baseline = "{place[2:]}"')
    (path / "m" / "notes").mkdir()
    is_folder = place in ("link", "m/2")
    aim = {"outside": outside if is_folder else outside / "file", "inside": path / "m" / "3"}[target]
    (path / place).unlink(missing_ok=True)
    (path / place).symlink_to(aim)
    with pytest.raises(ConfigError, match="is a symbolic link, which a model repository must not have"):
        [one.version for one in configured(path).everything()]


def test_a_repository_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone cannot be read: No such file or directory"):
        configured(tmp_path / "gone").versions()


def test_an_empty_repository_is_allowed(tmp_path):
    assert configured(tmp_path).everything() == []


def test_a_model_comes_from_the_folder_or_from_the_settings_and_not_from_both(repository):
    path = repository({"1": ["model.onnx"]})
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1]}
    listed = {"name": "m", "source": "a:b", "inputs": [tensor], "outputs": [tensor]}
    with pytest.raises(ConfigError, match=r"has model m, and so has \[\[models\]\]"):
        configured(path, [listed]).versions()
    both = configured(path, [{**listed, "name": "other"}])
    assert both.versions() == {"other": ["1"], "m": ["1"]}


def test_the_folder_is_read_anew_each_time(repository):
    path = repository({"1": ["model.onnx"]})
    found = configured(path)
    (path / "m" / "2").mkdir()
    (path / "m" / "2" / "model.onnx").write_bytes(b"")
    assert found.versions() == {"m": ["1", "2"]}
    (path / "m" / "model.toml").write_text(KEYS + "canary = {2 = 0.5}")
    assert found.model("m").version("2").canary == {"2": 0.5}
