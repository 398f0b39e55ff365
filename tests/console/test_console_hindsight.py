"""A range of the store judged in hindsight, for a report."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from sidecar.console.hindsight import Hindsight
from sidecar.console.report import Reported
from sidecar.drift import DriftMonitor, Reference
from sidecar.errors import BaselineError
from sidecar.reports import write
from sidecar.settings import ConsoleSettings, DriftSettings
from sidecar.timeline import Retention, Store, Subject, Timeline
from tests.drift.conftest import TAPS, Traffic

SUBJECT = Subject("digits", "1", TAPS)
SETTINGS = DriftSettings(reference_requests=400, window_seconds=60)


@pytest.fixture(scope="module")
def drifted(tmp_path_factory):
    """Store of a model whose layer 1 drifts, settings with the folder of what its monitor kept, its last state."""
    folder = tmp_path_factory.mktemp("drifted")
    settings = SETTINGS.model_copy(update={"state": folder / "state"})
    traffic = Traffic()
    timeline = Timeline(TAPS, 10.0, 60, traffic.clock)
    rng = np.random.default_rng(0)
    monitor = DriftMonitor("digits", "1", TAPS, settings, timeline, None, rng)
    store = Store(folder / "panes.db", Retention(10.0, 7.0, 100.0))
    for shift in [0.0] * 40 + [3.0] * 20:
        routed = [{"sidecar_route": "a"}] * 10
        reading = replace(traffic.reading(10, shifts={1: shift}), parameters=routed)
        timeline.add(reading)
        monitor.observe(reading)
    monitor.keep()
    for pane in timeline.panes():
        store.write(SUBJECT, pane, {"evidence": monitor.evidence()}, pane.start + 10)
    store.close()
    return folder / "panes.db", settings, monitor.state()


def told(store, settings, out, baseline=lambda *_: None, minimum=20):
    reported = Reported("digits", "1", 1050.0, 1060.0)
    write(
        store,
        ConsoleSettings(min_requests=minimum),
        Hindsight(settings, baseline),
        reported,
        out,
        lambda: 1100.0,
    )
    return json.loads(re.search(r'id="answers">(.*?)</script>', out.read_text()).group(1))


def test_a_report_has_the_evidence_that_was_kept_and_effects_over_its_range(drifted, tmp_path):
    store, settings, state = drifted
    found = told(store, settings, tmp_path / "report.html")["drift"]["state"]
    assert found["reference_requests"] == 400
    assert found["model_evidence"] == pytest.approx(state.model_evidence)
    assert [layer["active"] for layer in found["layers"]] == [layer.active for layer in state.layers]
    assert found["layers"][1]["effects"]["psi"] > 1 > abs(found["layers"][0]["effects"]["psi"])
    assert found["cause"]["tap"]["layer"] == 1


def test_what_is_made_of_single_requests_is_not_told_of_a_range(drifted, tmp_path):
    store, settings, _ = drifted
    cause = told(store, settings, tmp_path / "report.html")["drift"]["state"]["cause"]
    assert cause["sentence"].startswith("drift begins at layer 1 (resid); channel 1 moved +3.")
    assert (cause["statistic"], cause["shift"], cause["groups"], cause["requests"]) == ("", None, [], [])


def test_a_report_shows_the_band_of_the_reference_and_who_is_compared_with_it(drifted, tmp_path):
    store, settings, _ = drifted
    found = told(store, settings, tmp_path / "report.html")
    assert found["layer layer=1 site=resid"]["reference"]["requests"] == 400
    assert found["histogram layer=1 site=resid"]["reference_total"] > 0
    assert found["baselines"]["baselines"][0]["complete"] is True
    assert found["taps"]["models"][0]["served"] is False


def test_a_report_has_the_units_that_moved_most_from_the_reference(drifted, tmp_path):
    store, settings, _ = drifted
    found = told(store, settings, tmp_path / "report.html")
    listed = found["neurons filter=all layer=1 order=shift site=resid"]["neurons"]
    units = found["units layer=1 site=resid"]["units"]
    moved = [one["channel"] for one in units if "moved most" in one["reasons"]]
    assert set(moved) == {one["channel"] for one in listed[:3]}


def test_a_report_leaves_the_files_of_the_running_sidecar_alone(drifted, tmp_path):
    store, settings, _ = drifted
    (evidence,) = settings.state.glob("*.evidence")
    before = {path.name: path.read_bytes() for path in settings.state.iterdir()}
    evidence.write_bytes(b"damaged")
    found = told(store, settings, tmp_path / "report.html")
    evidence.write_bytes(before[evidence.name])
    assert found["drift"]["state"]["model_evidence"] == 0
    assert {path.name: path.read_bytes() for path in settings.state.iterdir()} == before


def test_a_baseline_of_the_settings_takes_the_place_of_the_reference_that_was_kept(drifted, tmp_path):
    store, settings, _ = drifted
    (kept,) = settings.state.glob("*.baseline")
    found = told(store, SETTINGS, tmp_path / "report.html", lambda model, version: kept)
    assert found["drift"]["state"]["reference_requests"] == 400
    assert found["drift"]["state"]["model_active"] is False


def test_without_a_reference_a_report_says_nothing_of_drift(drifted, tmp_path):
    found = told(drifted[0], SETTINGS, tmp_path / "report.html")
    assert found["drift"]["state"] is None
    assert found["layer layer=1 site=resid"]["reference"] is None


def test_a_range_of_too_few_requests_is_not_judged(drifted, tmp_path):
    store, settings, _ = drifted
    found = told(store, settings, tmp_path / "report.html", minimum=1000)
    assert found["drift"]["state"] is None


def test_a_baseline_of_something_else_ends_the_report(drifted, tmp_path):
    store, settings, _ = drifted
    (kept,) = settings.state.glob("*.baseline")
    other = Reference.load(kept)
    replace(other, model="letters").save(tmp_path / "other")
    with pytest.raises(BaselineError, match="letters"):
        told(store, settings, tmp_path / "report.html", lambda *_: tmp_path / "other")


@pytest.mark.slow
def test_the_views_of_a_report_show_drift(visit, drifted, tmp_path):
    store, settings, _ = drifted
    told(store, settings, tmp_path / "report.html")
    there = visit(address=(tmp_path / "report.html").as_uri())
    there.go("#/drift")
    shown = there.tab.locator("main").inner_text()
    assert "Drift begins at layer 1 (resid)" in shown
    assert "drift begins here" in shown
    there.go("#/layer?layer=1&site=resid")
    assert "behind: values of the reference" in there.tab.locator(".plot").first.inner_text()
    assert (there.faults, there.elsewhere) == ([], [])
