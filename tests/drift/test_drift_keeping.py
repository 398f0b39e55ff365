"""Reference and evidence survive a restart."""

import logging

import numpy as np
import pytest

from sidecar.drift import DriftMonitor
from sidecar.drift.monitor import KEEP_SECONDS
from sidecar.errors import BaselineError
from sidecar.settings import DriftSettings
from sidecar.timeline import Timeline

REFERENCE = 400


@pytest.fixture
def start(traffic, taps, tmp_path):
    """A monitor as after a restart: whatever is in the folder is all that it knows."""

    def start(version="1", taps=taps, **changes):
        settings = DriftSettings(
            **{
                "reference_requests": REFERENCE,
                "requests_between_false_alarms": 1_000,
                "state": tmp_path / "state",
                **changes,
            }
        )
        timeline = Timeline(taps, 10.0, 60, traffic.clock)
        return DriftMonitor("m", version, taps, settings, timeline, None, np.random.default_rng(0))

    return start


def feed(monitor, traffic, requests, **changes):
    for _ in range(requests // 20):
        monitor.observe(traffic.reading(20, **changes))
    return monitor.state()


@pytest.fixture
def stopped(start, traffic):
    """The state of a monitor with an active alarm, at its stop."""
    monitor = start()
    feed(monitor, traffic, REFERENCE)
    state = feed(monitor, traffic, 100, shifts={1: 1.5})
    assert state.model_active
    monitor.keep()
    return state


def test_evidence_goes_on_where_it_was(start, stopped):
    state = start().state()
    assert (state.reference_requests, state.judged_requests) == (REFERENCE, 100)
    assert state.model_evidence == stopped.model_evidence
    assert [layer.evidence for layer in state.layers] == [layer.evidence for layer in stopped.layers]
    assert (state.model_active, state.model_alarm_ordinals) == (True, stopped.model_alarm_ordinals)


def test_after_a_restart_the_same_requests_give_the_same_evidence(start, stopped, make_traffic):
    states = [feed(start(), make_traffic(seed=9), 200) for _ in range(2)]
    assert states[0].model_evidence == states[1].model_evidence
    assert states[0].judged_requests == 300


def test_a_crash_costs_the_evidence_of_a_minute_at_most(start, traffic):
    monitor = start()
    feed(monitor, traffic, REFERENCE)
    feed(monitor, traffic, 200)
    traffic.at += KEEP_SECONDS
    feed(monitor, traffic, 20)
    feed(monitor, traffic, 40)
    assert start().state().judged_requests == 220


def test_a_crash_right_after_the_reference_keeps_it(start, traffic):
    feed(start(), traffic, REFERENCE)
    assert start().state().reference_ready


@pytest.mark.parametrize("place", [3, 40, -1])
@pytest.mark.parametrize("kind", ["baseline", "evidence"])
def test_a_damaged_file_is_set_aside_and_said(start, stopped, tmp_path, caplog, place, kind):
    path = tmp_path / f"state/m@1.{kind}"
    stored = bytearray(path.read_bytes())
    stored[place] ^= 1
    path.write_bytes(stored)
    with caplog.at_level(logging.ERROR):
        state = start().state()
    assert "set aside" in caplog.text
    assert path.with_name(f"{path.name}.aside").exists()
    assert not path.exists()
    assert state.judged_requests == 0
    assert state.reference_ready == (kind == "evidence")


def test_evidence_of_another_reference_is_set_aside(start, stopped, traffic, tmp_path, caplog):
    (tmp_path / "state/m@1.baseline").unlink()
    with caplog.at_level(logging.ERROR):
        state = feed(start(), traffic, REFERENCE)
    assert "of another reference" in caplog.text
    assert (state.reference_ready, state.judged_requests) == (True, 0)


def test_what_was_kept_of_other_taps_is_set_aside(start, stopped, taps, caplog):
    with caplog.at_level(logging.ERROR):
        state = start(taps=taps[:2]).state()
    assert "has tap 2/resid, which is not watched" in caplog.text
    assert not state.reference_ready


def test_each_version_has_its_own(start, stopped):
    assert not start(version="2").state().reference_ready


def test_a_folder_that_cannot_be_written_is_named(start, traffic, tmp_path):
    (tmp_path / "file").write_text("")
    monitor = start(state=tmp_path / "file/state")
    with pytest.raises(BaselineError, match="cannot make the folder"):
        feed(monitor, traffic, REFERENCE)
    assert monitor.state().reference_ready


@pytest.mark.parametrize("later", ["a minute later", "at the stop"])
def test_a_reference_that_could_not_be_written_is_written_with_the_evidence(start, traffic, tmp_path, later):
    blocked = tmp_path / "state"
    blocked.write_text("")
    monitor = start()
    with pytest.raises(BaselineError, match="cannot make the folder"):
        feed(monitor, traffic, REFERENCE)
    blocked.unlink()
    feed(monitor, traffic, 40)
    if later == "at the stop":
        monitor.keep()
    else:
        traffic.at += KEEP_SECONDS
        feed(monitor, traffic, 20)
    state = start().state()
    assert (state.reference_ready, state.judged_requests) == (True, monitor.state().judged_requests)


def test_nothing_is_written_where_no_folder_is_set(start, traffic, tmp_path):
    monitor = start(state=None)
    feed(monitor, traffic, REFERENCE)
    monitor.keep()
    assert list(tmp_path.iterdir()) == []
