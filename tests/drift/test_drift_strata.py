"""References conditioned on what a request says of itself."""

from dataclasses import replace

import numpy as np
import pytest

from sidecar.drift import DriftMonitor
from sidecar.drift.ranks import EVERYONE
from sidecar.drift.strata import MOST_STRATA, Strata, labels
from sidecar.errors import BaselineError
from sidecar.settings import DriftSettings
from sidecar.sketch import OutputRows
from sidecar.timeline import Timeline

REFERENCE = 1_000


class Watch:
    """A monitor over requests of two routes, of which "night" has larger values."""

    def __init__(self, traffic, taps, stratify_by):
        self.traffic = traffic
        self.settings = DriftSettings(
            reference_requests=REFERENCE, requests_between_false_alarms=10_000, stratify_by=stratify_by
        )
        self.timeline = Timeline(taps, 10.0, 60, traffic.clock)
        rng = np.random.default_rng(0)
        self.monitor = DriftMonitor("m", "1", taps, self.settings, self.timeline, None, rng)

    def run(self, readings, night, shift=0.0):
        """Readings of 20 requests, `night` of them of that route, and those moved by `shift`."""

        def edit(_, values):
            values[:night] += 1.0 + shift

        for _ in range(readings):
            routes = [{"route": "night"}] * night + [{"route": "day"}] * (20 - night)
            predicted = np.array([1] * night + [0] * (20 - night))
            ones = np.ones(20)
            reading = replace(
                self.traffic.reading(20, edit=edit),
                parameters=routes,
                outputs=OutputRows(ones, ones, predicted, np.ones((20, 2))),
            )
            self.timeline.add(reading)
            self.monitor.observe(reading)
        return self.monitor.state()


@pytest.mark.parametrize(
    ("stratify_by", "strata", "alarms"),
    [("route", ("day", "night"), False), ("predicted_class", ("0", "1"), False), ("", (), True)],
)
def test_a_mix_that_swings_between_day_and_night_alarms_only_where_it_is_not_stratified(
    traffic, taps, stratify_by, strata, alarms
):
    watch = Watch(traffic, taps, stratify_by)
    watch.run(REFERENCE // 20, night=10)
    for night in (16, 4, 16):
        state = watch.run(20, night=night)
    # The mix of classes swings with the routes; that alone is reported apart from the layers.
    assert any(layer.alarms for layer in state.layers) == alarms
    assert state.strata == strata


def test_drift_within_one_stratum_is_found(traffic, taps):
    watch = Watch(traffic, taps, "route")
    watch.run(REFERENCE // 20, night=10)
    assert not watch.run(20, night=10).model_alarms
    assert watch.run(10, night=10, shift=1.5).model_alarms == 1


def test_a_label_that_the_reference_does_not_know_is_judged_by_everyone():
    strata = Strata(np.repeat(["a", "b", "c", ""], [300, 200, 199, 900]))
    assert strata.names == ("a", "b")
    assert strata.numbers(np.array(["b", "a", "c", "new", ""])).tolist() == [
        2,
        1,
        EVERYONE,
        EVERYONE,
        EVERYONE,
    ]
    assert len(strata) == 3


def test_the_number_of_strata_is_bounded():
    strata = Strata(np.repeat([f"route {i}" for i in range(200)], 200))
    assert len(strata) == MOST_STRATA


def test_a_request_without_the_parameter_has_no_label(traffic):
    reading = replace(traffic.reading(2), parameters=[{"route": 7}, {}])
    assert labels(reading, "route").tolist() == ["7", ""]
    assert labels(reading, "").tolist() == ["", ""]


def test_a_long_label_is_cut(traffic):
    reading = replace(traffic.reading(1), parameters=[{"route": "x" * 1_000}])
    assert len(labels(reading, "route")[0]) == 128


def test_a_baseline_that_is_stratified_otherwise_is_refused(traffic, taps):
    watch = Watch(traffic, taps, "route")
    watch.run(REFERENCE // 20, night=10)
    with pytest.raises(BaselineError, match=r"stratified by 'route', drift\.stratify_by is ''"):
        watch.monitor.reference.check("m", taps, "")
