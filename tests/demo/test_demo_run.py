"""The demo as a user runs it: a process, a report, a terminal, Ctrl-C."""

import json
import os
import pty
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from sidecar import cli
from sidecar.demo import training
from sidecar.demo.run import cache_folder, report
from sidecar.demo.traffic import Tally

COMMAND = (sys.executable, "-m", "sidecar.cli", "demo")


@pytest.fixture(scope="module")
def environment(demo_weights):
    return {**os.environ, "XDG_CACHE_HOME": str(demo_weights.parent.parent)}


@pytest.fixture(scope="module")
def noise(environment, tmp_path_factory):
    """The report of a run in which the traffic becomes noisy."""
    path = tmp_path_factory.mktemp("demo") / "report.json"
    command = (*COMMAND, "--seconds", "20", "--scenario", "noise", "--report", str(path))
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    return json.loads(path.read_text())


def test_the_report_has_the_keys_that_scripts_rely_on(noise):
    assert set(noise) == {
        "sent", "answered", "failed", "accuracy_before", "accuracy_after", "requests_to_alarm", "false_alarms",
        "telemetry_share", "latency_p50_ms", "latency_p99_ms", "layers",
    }  # fmt: skip


def test_each_layer_of_the_report_has_its_keys(noise):
    keys = {"layer", "site", "requests_to_alarm", "zero_share", "absmax"}
    assert [set(layer) for layer in noise["layers"]] == [keys] * 6


def test_every_request_is_answered(noise):
    assert (noise["failed"], noise["answered"]) == (0, noise["sent"])


def test_noise_raises_an_alarm_within_200_requests(noise):
    assert noise["requests_to_alarm"] <= 200


def test_nothing_alarms_before_the_shift(noise):
    assert noise["false_alarms"] == 0


def test_the_model_is_good_before_the_shift_and_worse_after(noise):
    assert noise["accuracy_before"] >= 0.95 > noise["accuracy_after"]


@pytest.mark.slow
def test_in_a_terminal_the_view_is_live_and_ctrl_c_ends_it_cleanly(environment):
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        COMMAND, stdin=follower, stdout=follower, stderr=follower, env={**environment, "TERM": "xterm"}
    )
    os.close(follower)
    seen = b""
    while b"normal traffic" not in seen:
        seen += os.read(leader, 65536)
    process.send_signal(signal.SIGINT)
    with open(leader, "rb", closefd=True) as screen:
        seen += _rest(screen)
    assert process.wait(timeout=30) == 0
    assert b"Traceback" not in seen


def _rest(screen):
    """What a terminal still shows; Linux ends it with an error once nobody writes to it."""
    seen = b""
    try:
        while piece := screen.read1(65536):
            seen += piece
    except OSError:
        pass
    return seen


def test_a_model_that_was_trained_is_not_trained_again(demo_weights):
    told = []
    training.weights(demo_weights, told.append)
    assert told == []


def test_a_relative_cache_folder_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder({"XDG_CACHE_HOME": "here"}) == tmp_path / ".cache" / "activation-sidecar"


def test_weights_are_kept_in_the_users_cache_folder(tmp_path):
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "activation-sidecar"


def status(judged, *ordinals):
    layers = [
        {"layer": i, "site": "resid", "alarm_ordinals": found, "zero_share": 0.0, "absmax": 1.0}
        for i, found in enumerate(ordinals)
    ]
    return {
        "judged_requests": judged,
        "model_alarms": 1,
        "inference_seconds": 10.0,
        "telemetry_seconds": 0.1,
        "layers": layers,
    }


def test_the_alarm_is_counted_from_the_shift_and_taken_from_the_fastest_layer():
    traffic = SimpleNamespace(tally=Tally())
    outcome = report(traffic, status(1000), status(2000, [900], [950, 1040], [1017], []))
    assert outcome["requests_to_alarm"] == 17
    assert [layer["requests_to_alarm"] for layer in outcome["layers"]] == [None, 40, 17, None]


def test_a_run_too_short_to_show_anything_is_refused():
    outcome = CliRunner().invoke(cli.app, ["demo", "--seconds", "3"])
    assert outcome.exit_code == 2
    assert "15" in outcome.output


def test_without_scikit_learn_the_demo_says_what_to_install():
    program = "import sys; sys.modules['sklearn'] = None; from sidecar.cli import main; sys.argv[1:] = ['demo']; main()"
    ended = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "pip install 'activation-sidecar[demo]'" in ended.stderr
