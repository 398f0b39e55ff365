"""Versions served side by side, compared while they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sidecar.drift import DriftMonitor
from sidecar.export.activations import Watched
from sidecar.export.catalogue import OF_FURTHER_VERSIONS
from sidecar.export.detail import ESSENTIAL, FULL
from sidecar.export.versions import Observed, version_differences
from sidecar.settings import DriftSettings
from sidecar.timeline import Timeline
from sidecar.types import TelemetryStatus
from tests.drift.conftest import TAPS, Traffic

SETTINGS = DriftSettings(reference_requests=200, window_seconds=600)


@pytest.fixture(scope="module")
def served():
    """A version, with `requests` of it seen, whose layer 1 is moved by `shift`."""

    def served(version, requests=0, shift=0.0, model="digits", taps=TAPS):
        traffic = Traffic(seed=int(version))
        timeline = Timeline(taps, 10.0, 60, traffic.clock)
        monitor = DriftMonitor(model, version, taps, SETTINGS, timeline, None, np.random.default_rng(0))
        for _ in range(requests // 10):
            reading = traffic.reading(10, shifts={1: shift})
            kept = {part: {tap: getattr(reading, part)[tap] for tap in taps} for part in ("sketches", "rows")}
            reading = replace(reading, **kept)
            timeline.add(reading)
            monitor.observe(reading)
        return Observed(model, version, monitor), timeline

    return served


def watched(served_version):
    one, timeline = served_version
    status = TelemetryStatus(True)
    return Watched(one.model, one.version, lambda: True, lambda: status, 1.5, 2048, timeline, one.monitor)


def test_the_layer_that_differs_is_named_and_no_other(served):
    (found,) = version_differences([served("1", 400)[0], served("2", 200, shift=1.0)[0]])
    assert (found.model, found.beside, found.version) == ("digits", "1", "2")
    assert [layer.tap.layer for layer in found.layers] == [0, 1, 2]
    assert [layer.effects.times_level > 1 for layer in found.layers] == [False, True, False]
    assert found.layers[1].effects.psi > 0.3
    assert abs(found.layers[0].effects.psi) < 0.05


def test_each_further_version_stands_beside_the_first_of_its_model(served):
    sides = [served("1", 20)[0], served("1", 20, model="other")[0], served("2", 20)[0], served("3", 20)[0]]
    assert [(one.beside, one.version) for one in version_differences(sides)] == [("1", "2"), ("1", "3")]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"requests": 0}, "no request of digits version 2 was observed in the last 600 s"),
        ({"requests": 20, "taps": TAPS[:2]}, "the baseline has no tap 2/resid"),
    ],
)
def test_versions_that_cannot_be_compared_say_why(served, other, reason):
    (found,) = version_differences([served("1", 20)[0], served("2", **other)[0]])
    assert (found.layers, found.detail) == ((), reason)


def test_while_neither_has_a_reference_effects_are_not_known(served):
    (found,) = version_differences([served("1", 20)[0], served("2", 20)[0]])
    assert all(np.isnan(layer.effects.times_level) for layer in found.layers)


def test_a_further_version_has_series_of_its_own_from_the_start(served, export, is_nan):
    first, second = watched(served("1", 400)), watched(served("2", 200, shift=1.0))
    samples = export(first, second).samples()
    for metric in OF_FURTHER_VERSIONS:
        assert [labels["version"] for labels, _ in samples[metric.name]] == ["2"] * 3
    assert samples["sidecar_version_psi"][1][1] > 0.3
    assert is_nan(export(first, watched(served("2"))).samples()["sidecar_version_psi"])
    assert "sidecar_version_psi" not in export(first).samples()


def test_the_cap_counts_the_series_of_a_comparison(served, export):
    versions = watched(served("1", 20)), watched(served("2", 20))
    whole = 3 * FULL.series(further=False) + 3 * FULL.series(further=True)
    assert export(*versions, max_series=whole).samples()["sidecar_series"] == [({}, whole)]
    less = export(*versions, max_series=whole - 1).samples()
    assert less["sidecar_series"][0][1] < whole
    assert less["sidecar_series"][0][1] + less["sidecar_series_dropped"][0][1] == whole
    assert all(metric.name in less for metric in (*ESSENTIAL, *OF_FURTHER_VERSIONS))
