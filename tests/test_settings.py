"""One file, the environment over it, and a sentence for everything that is wrong."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sidecar import settings
from sidecar.errors import ConfigError
from sidecar.types import Ragged, VersionPolicy

X = {"name": "x", "datatype": "FP32", "shape": [-1, 3]}
MODEL = {"name": "m", "source": "package.module:factory", "inputs": [X], "outputs": [{**X, "name": "y"}]}
TOML = """
[[models]]
name = "m"
source = "package.module:factory"
inputs = [{name = "x", datatype = "FP32", shape = [-1, 3]}]
outputs = [{name = "y", datatype = "FP32", shape = [-1, 3]}]
"""


def resolve(environ=None, **sections):
    return settings.resolve({"models": [MODEL], **sections}, environ or {}, base=Path("/etc/sidecar"))


def model(**changes):
    return {"models": [{**MODEL, **changes}]}


def test_a_model_is_enough():
    found = resolve()
    assert (found.server.grpc_port, found.server.http_port) == (8001, 8002)
    assert found.models[0].inputs[0].shape == (-1, 3)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"capture": {"sample_rate": 1.4}}, "capture.sample_rate is 1.4, must be at most 1"),
        ({"capture": {"sample_rate": -0.1}}, "capture.sample_rate is -0.1, must be at least 0"),
        ({"capture": {"budget": 2.0}}, "capture.budget is 2.0, must be at most 1"),
        ({"capture": {"route_floor": -1}}, "capture.route_floor is -1, must be at least 0"),
        ({"capture": {"sample_rate": float("nan")}}, "capture.sample_rate is nan, must be at most 1"),
        ({"capture": {"near_zero": 0}}, "capture.near_zero is 0, must be more than 0"),
        ({"capture": {"near_zero": 2}}, "capture.near_zero is 2, must be at most 1"),
        ({"capture": {"slots": 15}}, "capture.slots is 15, must be at least 16"),
        ({"capture": {"drain_seconds": 61}}, "capture.drain_seconds is 61, must be at most 60"),
        ({"capture": {"patience_ms": 0}}, "capture.patience_ms is 0, must be more than 0"),
        (
            {"capture": {"enabled": "perhaps"}},
            "capture.enabled is 'perhaps': Input should be a valid boolean",
        ),
        ({"server": {"grpc_port": 65536}}, "server.grpc_port is 65536, must be at most 65535"),
        ({"server": {"grpc_port": "http"}}, "server.grpc_port is 'http': Input should be a valid integer"),
        ({"server": {"max_message_bytes": 10}}, "server.max_message_bytes is 10, must be at least 1024"),
        ({"server": {"grace_seconds": 0}}, "server.grace_seconds is 0, must be more than 0"),
        ({"timeline": {"pane_seconds": 0}}, "timeline.pane_seconds is 0, must be more than 0"),
        ({"timeline": {"keep_panes": 5}}, "timeline.keep_panes is 5, must be at least 6"),
        ({"drift": {"window_seconds": 1e9}}, "drift.window_seconds is 1000000000.0, must be at most 86400"),
        ({"drift": {"reference_requests": 199}}, "drift.reference_requests is 199, must be at least 200"),
        (
            {"drift": {"requests_between_false_alarms": 5}},
            "drift.requests_between_false_alarms is 5, must be at least 100",
        ),
        ({"export": {"max_series": 99}}, "export.max_series is 99, must be at least 100"),
        (
            {"log": {"level": "loud"}},
            "log.level is 'loud': Input should be 'debug', 'info', 'warning' or 'error'",
        ),
        ({"capture": 3}, "capture is 3: Input should be a valid dictionary"),
        (model(name="a b"), "models.0.name is 'a b': String should match pattern"),
        (model(source="nonsense"), "models.0.source is 'nonsense': String should match pattern"),
        (model(threads=-1), "models.0.threads is -1, must be at least 0"),
        (model(tolerance=-1), "models.0.tolerance is -1, must be at least 0"),
        (model(inputs=[]), "models.0.inputs: Tuple should have at least 1 item"),
        (model(batching={"max_rows": -1}), "models.0.batching.max_rows is -1, must be at least 0"),
        (
            model(outputs=[{**X, "datatype": "FP8"}]),
            "models.0.outputs.0.datatype is 'FP8': must be one of BOOL, UINT8, UINT16",
        ),
        (model(inputs=[{**X, "shape": [-2]}]), "models.0.inputs.0.shape.0 is -2, must be at least -1"),
        ({"models": []}, "settings: there is no model: give [[models]], or repository.path"),
        ({"models": [MODEL, MODEL]}, "models: model m version 1 is configured twice"),
        ({"models": [{**MODEL, "name": None}]}, "models.0.name: Input should be a valid string"),
        (
            {"server": {"tls_key": "key.pem"}},
            "server: tls_certificate and tls_key must be given together",
        ),
    ],
)
def test_a_refusal_names_key_value_and_what_is_allowed(sections, message):
    with pytest.raises(ConfigError) as refused:
        resolve(**sections)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"captur": {}}, "captur is not a setting; there are server, models, repository, capture, timeline"),
        (
            {"capture": {"rate": 1}},
            "capture.rate is not a setting; there are enabled, sample_rate, budget, route_floor, sample_key",
        ),
        (
            model(batch=8),
            "models.0.batch is not a setting; there are name, version, runtime, source, weights",
        ),
        (
            model(batching={"rows": 8}),
            "models.0.batching.rows is not a setting; there are max_rows, max_delay_ms",
        ),
        (
            model(inputs=[{**X, "dtype": "FP32"}]),
            "models.0.inputs.0.dtype is not a setting; there are name, datatype, shape",
        ),
    ],
)
def test_an_unknown_setting_is_told_those_that_are(sections, message):
    with pytest.raises(ConfigError) as refused:
        resolve(**sections)
    assert message in str(refused.value)


@pytest.mark.parametrize("key", ["name", "inputs", "outputs"])
def test_what_a_model_must_have_is_named(key):
    with pytest.raises(ConfigError, match=rf"models\.0\.{key} is missing and must be given"):
        resolve(models=[{name: value for name, value in MODEL.items() if name != key}])


@pytest.mark.parametrize("changes", [{"source": None}, {"path": "model.onnx"}])
def test_a_model_comes_from_a_factory_or_from_a_path_and_not_from_both(changes):
    with pytest.raises(ConfigError, match="give either source, a factory, or path"):
        resolve(**model(**changes))


def test_weights_beside_a_path_are_refused():
    with pytest.raises(ConfigError, match="weights go with source"):
        resolve(**model(source=None, path="model.onnx", weights="model.safetensors"))


def test_a_relative_path_lies_in_the_folder_of_the_settings():
    assert resolve(**model(source=None, path="model.onnx")).models[0].path == Path("/etc/sidecar/model.onnx")
    console = resolve(console={"baselines": {"march": "b", "april": "/b"}, "replica_token_file": "t"}).console
    assert console.baselines == {"march": Path("/etc/sidecar/b"), "april": Path("/b")}
    assert console.replica_token_file == Path("/etc/sidecar/t")


@pytest.mark.parametrize(
    "console",
    [
        {"replicas": {"east": "file:///etc/passwd"}},
        {"replicas": {"e st": "http://e"}},
        {"baselines": {"": "b"}},
    ],
)
def test_a_replica_or_baseline_that_cannot_be_asked_for_is_refused(console):
    with pytest.raises(ConfigError, match="console"):
        resolve(console=console)


def test_labels_lie_in_the_folder_of_the_settings_and_belong_to_outputs():
    labelled = {**X, "name": "y", "labels": "classes.txt"}
    (output,) = resolve(**model(outputs=[labelled])).models[0].outputs
    assert output.labels == Path("/etc/sidecar/classes.txt")
    with pytest.raises(ConfigError, match="input y has labels, which only outputs may have"):
        resolve(**model(inputs=[labelled]))


def versions(**changes):
    """Settings of versions 1 and 2 of one model; `changes` are those of version 2."""
    return resolve(models=[MODEL, {**MODEL, "version": "2", **changes}])


TOKENS = {"name": "x", "datatype": "INT64", "shape": [-1, -1]}
PADDED = {"ragged_buckets": [16, 8]}


def test_buckets_pad_the_size_that_is_not_known_beside_the_batch():
    outputs = [{**TOKENS, "name": "y"}, {**X, "name": "z"}]
    wave = {"name": "wave", "datatype": "FP32", "shape": [-1, 2, -1]}
    one = model(inputs=[{**TOKENS, "pad_value": 3}, wave], outputs=outputs, batching=PADDED)
    (found,) = settings.resolve(one, {}, base=Path()).models
    assert found.ragged == Ragged((8, 16), {"x": 1, "wave": 2}, {"y": 1}, {"x": 3, "wave": 0})


def test_without_buckets_nothing_is_padded():
    assert resolve().models[0].ragged is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batching": PADDED}, "pads nothing: no input has a size of -1 beside the batch"),
        ({"inputs": [TOKENS], "batching": {**PADDED, "max_rows": 0}}, "needs batching.max_rows above 0"),
        (
            {"inputs": [{**TOKENS, "shape": [-1, -1, -1]}], "batching": PADDED},
            "x has more than one size of -1 beside the batch",
        ),
        (
            {"inputs": [TOKENS], "outputs": [{**X, "shape": [-1, -1, -1]}], "batching": PADDED},
            "x has more than one size of -1 beside the batch",
        ),
        ({"inputs": [{**TOKENS, "pad_value": 1}]}, "x has a pad_value, and batching.ragged_buckets does not"),
        (
            {"inputs": [{**X, "shape": [-1, -1], "pad_value": 1}], "batching": PADDED},
            "pad_value is for integers",
        ),
        ({"inputs": [{**TOKENS, "datatype": "INT8", "pad_value": 128}]}, "pad_value 128 is no INT8"),
    ],
)
def test_padding_that_cannot_be_told_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        settings.resolve(model(**changes), {}, base=Path())


def test_what_one_version_says_of_the_model_holds_for_all():
    said = {"canary": {"2": 0.05}, "canary_key": "tenant", "version_policy": {"latest": 1}}
    for model in versions(**said).models:
        assert (model.canary, model.canary_key) == ({"2": 0.05}, "tenant")
        assert model.version_policy.policy == VersionPolicy(latest=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"canary": {"3": 0.1}}, "models: model m: canary names version 3, there are 1, 2"),
        ({"canary": {"2": 1.1}}, "models.1.canary.2 is 1.1, must be at most 1"),
        ({"canary": {"1": 0.6, "2": 0.6}}, "models.1.canary: the shares add up to 1.2, must be at most 1"),
        ({"version_policy": {"specific": [1, 3]}}, "model m: version_policy names version 3, there are 1, 2"),
        ({"version_policy": {"latest": 0}}, "models.1.version_policy.latest is 0, must be at least 1"),
        ({"version_policy": {"all": False}}, "give one of all = true, latest = N, or specific"),
        ({"version_policy": {"all": True, "latest": 1}}, "give one of all = true, latest = N, or specific"),
    ],
)
def test_a_lineup_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ConfigError) as refused:
        versions(**changes)
    assert message in str(refused.value)


def test_two_versions_that_disagree_about_their_model_are_refused():
    with pytest.raises(
        ConfigError, match="model m has more than one canary, which holds for all its versions"
    ):
        resolve(models=[{**MODEL, "canary": {"2": 0.1}}, {**MODEL, "version": "2", "canary": {"2": 0.2}}])


def test_a_repository_takes_the_place_of_models_and_lies_beside_the_settings():
    found = settings.resolve({"repository": {"path": "models"}}, {}, base=Path("/etc/sidecar"))
    assert (found.models, found.repository.path) == ((), Path("/etc/sidecar/models"))


@given(
    st.lists(st.integers(0, 99).map(str), unique=True),
    st.integers(1, 5),
    st.sets(st.integers(0, 99).map(str)),
)
def test_latest_versions_are_the_highest_that_are_no_canaries_and_every_canary(known, latest, canaries):
    chosen = VersionPolicy(latest=latest).choose(known, canaries)
    assert chosen == sorted(chosen, key=int)
    steady = sorted(set(known) - canaries, key=int)
    assert set(chosen) == set(steady[-latest:]) | (canaries & set(known))


def test_models_must_be_given():
    with pytest.raises(ConfigError, match=r"there is no model: give \[\[models\]\]"):
        settings.resolve({}, {}, base=Path())


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(ConfigError, match=r"capture\.slots is 1.*; drift\.windw is not a setting"):
        resolve(capture={"slots": 1}, drift={"windw": 1})


def test_two_versions_of_a_model_are_two_models():
    assert len(resolve(models=[MODEL, {**MODEL, "version": "2"}]).models) == 2


@pytest.mark.parametrize(
    ("variable", "value", "found"),
    [
        ("SIDECAR_CAPTURE__SAMPLE_RATE", "0.5", lambda s: s.capture.sample_rate == 0.5),
        ("SIDECAR_CAPTURE__ENABLED", "false", lambda s: s.capture.enabled is False),
        ("SIDECAR_CAPTURE__SAMPLE_KEY", "any = text", lambda s: s.capture.sample_key == "any = text"),
        ("SIDECAR_SERVER__GRPC_HOST", "::1", lambda s: s.server.grpc_host == "::1"),
        ("SIDECAR_LOG__LEVEL", "debug", lambda s: s.log.level == "debug"),
        ("SIDECAR_MODELS__0__DEVICE", "cuda:1", lambda s: s.models[0].device == "cuda:1"),
        ("SIDECAR_MODELS__0__VERSION", '"2"', lambda s: s.models[0].version == "2"),
        ("SIDECAR_MODELS__0__TAPS", '["a.*", "b"]', lambda s: s.models[0].taps == ("a.*", "b")),
        ("SIDECAR_MODELS__0__BATCHING__MAX_ROWS", "4", lambda s: s.models[0].batching.max_rows == 4),
        (
            "SIDECAR_MODELS__0__INPUTS__0__DATATYPE",
            "FP64",
            lambda s: s.models[0].inputs[0].datatype == "FP64",
        ),
    ],
)
def test_the_environment_lies_over_the_file(variable, value, found):
    assert found(resolve({variable: value, "HOME": "/", "sidecar_capture": "not ours"}))


def test_the_environment_wins_over_the_file():
    assert resolve({"SIDECAR_CAPTURE__SLOTS": "64"}, capture={"slots": 32}).capture.slots == 64


def test_the_environment_does_not_change_the_tree_it_lies_over():
    tree = {"models": [copy.deepcopy(MODEL)], "capture": {"slots": 32}}
    before = copy.deepcopy(tree)
    settings.resolve(tree, {"SIDECAR_CAPTURE__SLOTS": "64", "SIDECAR_MODELS__0__NAME": "n"}, base=Path())
    assert tree == before


def test_a_value_of_the_environment_is_refused_like_one_of_the_file():
    with pytest.raises(ConfigError, match=r"capture\.slots is 'many'"):
        resolve({"SIDECAR_CAPTURE__SLOTS": "many"})


@pytest.mark.parametrize("variable", ["SIDECAR_CAPTURE__RATE", "SIDECAR_NOPE", "SIDECAR_NOPE__X"])
def test_an_unknown_variable_is_an_unknown_setting(variable):
    with pytest.raises(ConfigError, match=r"(capture\.rate|nope) is not a setting"):
        resolve({variable: "1"})


@pytest.mark.parametrize(
    "variable",
    ["SIDECAR_MODELS__1__NAME", "SIDECAR_MODELS__X__NAME", "SIDECAR_MODELS__NAME", "SIDECAR_LOG__LEVEL__X"],
)
def test_a_variable_that_leads_nowhere_is_named(variable):
    with pytest.raises(ConfigError, match=f"{variable} names no setting; the form is SIDECAR_SECTION__KEY"):
        resolve({variable: "1"}, log={"level": "info"})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_guard(host):
    assert resolve(server={"grpc_host": host, "http_host": host}).server.grpc_host == host


@pytest.mark.parametrize("key", ["grpc_host", "http_host"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "models.example.org", ""])
def test_beyond_loopback_needs_tls_and_a_token(key, host):
    guard = {"tls_certificate": "c.pem", "tls_key": "k.pem", "token_file": "t"}
    with pytest.raises(
        ConfigError, match=r"is reachable from other machines: set tls_certificate, tls_key and"
    ):
        resolve(server={key: host})
    for missing in ("token_file", "tls"):
        part = {name: value for name, value in guard.items() if not name.startswith(missing)}
        with pytest.raises(ConfigError, match="is reachable from other machines"):
            resolve(server={key: host, **part})
    assert resolve(server={key: host, **guard})
    assert resolve(server={key: host, "insecure": True})


def test_relative_paths_are_relative_to_the_files_folder(tmp_path):
    file = tmp_path / "sidecar.toml"
    file.write_text(
        '[server]\ntls_certificate = "tls/c.pem"\ntls_key = "/run/k.pem"\n'
        + TOML
        + 'weights = "w.safetensors"\nbaseline = "../b"\n'
    )
    found = settings.load(file, {})
    assert found.server.tls_certificate == tmp_path / "tls/c.pem"
    assert found.server.tls_key == Path("/run/k.pem")
    assert found.server.token_file is None
    assert found.models[0].weights == tmp_path / "w.safetensors"
    assert found.models[0].baseline == tmp_path / "../b"


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*gone\.toml: No such file"):
        settings.load(tmp_path / "gone.toml", {})


@pytest.mark.parametrize("content", [b"[models", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_file_that_is_not_toml_is_named(tmp_path, content):
    file = tmp_path / "sidecar.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"sidecar\.toml is not TOML: "):
        settings.load(file, {})


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        resolve().capture.slots = 1


@pytest.mark.parametrize("environ", [{}, {"SIDECAR_MODELS__0__VERSION": "2"}])
def test_a_version_may_be_written_as_a_number(environ):
    assert resolve(environ, **model(version=2)).models[0].version == "2"


@pytest.mark.parametrize("key", ["", "/", "..", "/../etc/passwd", "a/b", "//a", "." * 3])
def test_a_key_of_shared_memory_names_nothing_outside_its_folder(key):
    with pytest.raises(ConfigError, match=r"server\.shared_memory\.0 is"):
        resolve(server={"admin": True, "shared_memory": [key]})


def test_shared_memory_needs_admin():
    with pytest.raises(ConfigError, match="shared_memory can only be registered by admin calls"):
        resolve(server={"shared_memory": ["/frames"]})


@pytest.mark.parametrize("text", ["s3cret", "12345", "True", '"quoted"', "[1]", "a = 1"])
def test_a_token_in_the_environment_is_taken_as_it_stands(text):
    found = resolve({"SIDECAR_SERVER__TOKEN": text})
    assert found.server.token.get_secret_value() == text
    assert text not in repr(found.server.token)
    assert text not in found.server.model_dump_json()


@pytest.mark.parametrize("token", [" ", ["s3cret"], {"s3cret": 1}, True])
def test_a_token_that_cannot_be_used_is_refused_without_being_shown(token):
    with pytest.raises(ConfigError, match=r"server\.token: ") as refused:
        resolve(server={"token": token})
    assert "s3cret" not in str(refused.value)
    assert "True" not in str(refused.value)


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ({"token": "a", "token_file": "b"}, "give token or token_file, not both"),
        ({"tls_client_ca": "ca.pem"}, "tls_client_ca needs tls_certificate and tls_key"),
        ({"admin_listen": "127.0.0.1:8003"}, "admin_listen is where admin calls are taken: set admin = true"),
        ({"admin": True, "admin_listen": "0.0.0.0:8003"}, "0.0.0.0 is reachable from other machines"),
        ({"admin": True, "admin_listen": "[::]:8003"}, ":: is reachable from other machines"),
        ({"admin": True, "admin_listen": "8003"}, "server.admin_listen is '8003'"),
        ({"admin": True, "admin_listen": "unix:"}, "server.admin_listen is 'unix:'"),
        ({"max_streams": 0}, "server.max_streams is 0, must be at least 1"),
        ({"max_connections": 0}, "server.max_connections is 0, must be at least 1"),
        ({"min_ping_seconds": 0}, "server.min_ping_seconds is 0, must be at least 0.1"),
    ],
)
def test_a_guard_that_would_not_guard_is_refused(server, message):
    with pytest.raises(ConfigError) as refused:
        resolve(server=server)
    assert message in str(refused.value)


@pytest.mark.parametrize("listen", ["127.0.0.1:8003", "[::1]:8003", "localhost:0", "unix:/run/admin"])
def test_an_address_of_this_machine_alone_needs_no_further_guard(listen):
    assert resolve(server={"admin": True, "admin_listen": listen, "grpc_host": "unix:/run/grpc"})
