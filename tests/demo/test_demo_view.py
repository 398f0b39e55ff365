"""The terminal view, as it is read at 80 columns."""

import pytest
from rich.console import Console

from sidecar.demo.view import screen

LAYER = {
    "layer": 3,
    "site": "resid",
    "requests": 12467,
    "zero_share": 0.0,
    "near_zero_share": 0.0005,
    "absmax": 13.05,
    "kurtosis": 2.89,
    "evidence": 4.2,
    "active": False,
    "mean_shift": 0.1,
    "shifted_statistic": "rms",
    "nonfinite": 0,
}


def shown(**layer):
    status = {"layer_alarm_level": 15.6, "reference_ready": True, "layers": [{**LAYER, **layer}]}
    return text(status)


def text(status):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(screen("normal traffic", {"failed": "0"}, {"metrics": "http://x/metrics"}, status))
    return capture.get()


@pytest.mark.parametrize(
    "word", ["3 resid", "12,467", "0.00%", "0.05%", "13.05", "2.89", "4.2", "ok", "http://x/metrics", "15.6"]
)
def test_all_figures_of_a_layer_fit_into_80_columns(word):
    assert word in shown()


def test_a_drifting_layer_says_which_statistic_moved():
    assert "drift, rms" in shown(active=True)


def test_non_finite_values_come_before_drift():
    assert "17 NaN or Inf" in shown(active=True, nonfinite=17)


def test_a_figure_that_is_not_known_is_a_dash():
    assert " - " in shown(kurtosis=None)


def test_before_the_first_poll_there_is_a_screen():
    assert "normal traffic" in text({})
