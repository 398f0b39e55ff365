"""The page in a headless Chromium: each view with known panes, and what a browser must never do with it."""

from __future__ import annotations

import csv
import re
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from sidecar.settings import ConsoleSettings
from sidecar.timeline.steps import recording
from tests.console.kept import NOW, START, recorded
from tests.console.published import COURSE, LAYERS, PEAKS, layer_values, step_values, unit_means
from tests.export.conftest import NOW as EXPORTED

RANGE = f"model=digits&version=1&begin={START}&end={NOW}"
VIEWS = {
    "overview": f"#/overview?{RANGE}&statistic=rms",
    "layer": f"#/layer?{RANGE}&layer=1",
    "neuron": f"#/neuron?{RANGE}&layer=0&channel=7",
    "drift": f"#/drift?{RANGE}",
    "compare": f"#/compare?model=digits&version=1&begin={START + 30}&end={NOW}",
}


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "panes.db"
    rng = np.random.default_rng(0)
    with recording(path, "layer") as run, run.step(300_000) as step:
        step.add(0, "resid", layer_values(rng, unit_means(rng)))
    with recording(path, "steps") as run:
        for number in COURSE:
            with run.step(number) as step:
                for layer in range(1, LAYERS + 1):
                    step.add(layer, "resid", step_values(rng, layer, number))
    return path


@pytest.fixture(params=VIEWS)
def there(request, seen):
    return seen(VIEWS[request.param])


def test_each_view_is_drawn_without_a_fault_and_without_leaving_the_host(there):
    assert there.tab.locator("h1").count() == 1
    assert there.tab.locator("text=Loading.").count() == 0
    assert there.tab.locator(".wrong").count() == 0
    assert there.faults == []
    assert there.elsewhere == []


def test_axe_finds_no_serious_fault(there):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    found = axe.run(there.tab).response["violations"]
    grave = [one for one in found if one["impact"] in ("serious", "critical")]
    assert [(one["id"], one["nodes"][0]["html"]) for one in grave] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", VIEWS)
def test_no_view_is_wider_than_a_phone(seen, name):
    there = seen(VIEWS[name], phone=True)
    assert there.tab.evaluate("document.documentElement.scrollWidth") == 375


@pytest.mark.slow
@pytest.mark.parametrize("name", ["overview", "layer", "compare"])
def test_labels_stand_upright_on_a_phone(seen, name):
    labels = seen(VIEWS[name], phone=True).tab.locator(".xtick text").all()
    assert labels
    assert not any(
        re.search(r"rotate\((?!0[,)])", label.get_attribute("transform") or "") for label in labels
    )


def test_one_range_holds_for_all_of_a_view(visit):
    there = visit()
    there.go("#/layer?model=digits&version=1")
    asked = [parse_qs(urlsplit(url).query) for url in there.asked if "/layer?" in url or "/matrix?" in url]
    assert len(asked) > 2
    assert {float(one["begin"][0]) for one in asked} == {NOW - 3600}
    assert there.tab.get_by_label("Range").input_value() == "3600"


@pytest.mark.parametrize("name", ["overview", "layer", "neuron", "compare"])
def test_a_view_of_panes_has_plots_of_them(seen, name):
    assert seen(VIEWS[name]).tab.locator(".plot .main-svg").count() > 0


def test_compare_says_what_was_subtracted_and_where_nothing_could_be(visit, published, seen):
    there = seen(VIEWS["compare"]).tab.locator("section", has_text="Kolmogorov-Smirnov")
    assert "between halves of the panes on the left" in there.locator(".note").inner_text()
    steps = visit(path=published)
    steps.go("#/compare?model=steps")
    assert "Nothing is subtracted" in steps.tab.locator("section .note").first.inner_text()
    assert steps.tab.locator("td .quiet").count() == 4 * LAYERS


def test_the_published_layer_has_its_spikes_labelled_with_their_signs(visit, published):
    there = visit(path=published)
    there.go("#/layer?model=layer")
    told = there.tab.locator(".plot").first.get_attribute("aria-label")
    for unit, height in PEAKS.items():
        sign = "+" if height > 0 else "−"
        assert f"{unit}: {sign}{abs(height):.0f}"[: len(str(unit)) + 4] in told
    # Of the rebuilt chart: kurtosis 155, largest over median 53, crest 23.
    rows = dict(row.inner_text().split("\t")[:2] for row in there.tab.locator("tbody tr").all()[:7])
    assert float(rows["Kurtosis"]) == pytest.approx(155, rel=0.1)
    assert float(rows["Largest over median"]) == pytest.approx(53, rel=0.1)
    assert float(rows["Crest"]) == pytest.approx(23, rel=0.1)


def test_the_published_heatmap_has_its_plateau_found(visit, published):
    there = visit(path=published)
    there.go("#/overview?model=steps&statistic=mean")
    note = there.tab.locator(".note").first.inner_text()
    assert "in layer 12 resid at step 240,000" in note
    assert "from step 210,000 to step 240,000" in note


def test_a_module_named_like_an_image_stays_text(seen):
    there = seen(VIEWS["layer"])
    assert "<img onerror=x>" in there.tab.locator("main .controls").first.inner_text()
    assert there.tab.locator("img").count() == 0


def test_the_page_goes_on_when_the_sidecar_comes_back(visit, pages):
    served = pages()
    there = visit(address=served.address, clock=True)
    there.go(VIEWS["overview"])
    served.stop()
    there.tab.clock.fast_forward(11_000)
    there.tab.wait_for_selector("text=The sidecar does not answer")
    served.start()
    there.tab.clock.fast_forward(11_000)
    there.tab.wait_for_selector("#bottom:has-text('As of')")
    assert there.tab.locator(".plot .main-svg").count() > 0


def test_a_token_is_asked_for_and_kept_for_the_tab(visit):
    there = visit(token=b"secret")
    there.tab.goto(there.address)
    there.tab.fill("#token", "wrong")
    there.tab.click("text=Open")
    there.tab.wait_for_selector("text=That token is not valid.")
    there.tab.fill("#token", "secret")
    there.tab.click("text=Open")
    there.drawn()
    there.tab.reload()
    there.drawn()
    assert there.tab.locator("#token").count() == 0


def test_a_plot_downloads_as_a_picture_and_as_its_numbers(visit, tmp_path):
    there = visit()
    there.go(VIEWS["layer"])
    with there.tab.expect_download() as saved:
        there.tab.locator("text=PNG").first.click()
    saved.value.save_as(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    with there.tab.expect_download() as saved:
        there.tab.locator("text=CSV").first.click()
    saved.value.save_as(tmp_path / "plot.csv")
    rows = list(csv.reader((tmp_path / "plot.csv").read_text().splitlines()))
    assert rows[0] == ["unit", "mean", "rms", "absmax", "fire_rate"]
    assert len(rows) == 65
    assert there.faults == []


def test_the_theme_is_chosen_by_a_button_and_kept(visit):
    there = visit()
    there.go(VIEWS["overview"])
    there.tab.click("button.theme")
    assert there.tab.evaluate("document.documentElement.dataset.theme") == "dark"
    there.tab.reload()
    assert there.tab.evaluate("document.documentElement.dataset.theme") == "dark"


def test_a_range_is_shown_beside_a_baseline(visit, tmp_path):
    recorded(shift=2.0).save(tmp_path / "march")
    there = visit(settings=ConsoleSettings(budget=64.0, baselines={"march": tmp_path / "march"}))
    there.go(f"#/compare?{RANGE}&other=baseline:march")
    told = there.tab.locator("main").inner_text()
    assert "Right: digits 1, baseline march, as of" in told
    assert there.tab.locator(".plot .main-svg").count() > 0
    assert "baseline march" in there.tab.locator("main select").first.inner_text()
    assert (there.faults, there.elsewhere) == ([], [])


@pytest.mark.slow
def test_a_side_with_wider_tails_is_drawn_and_saved_whole(visit, tmp_path):
    recorded(shift=20_000.0).save(tmp_path / "far")
    there = visit(settings=ConsoleSettings(budget=64.0, baselines={"far": tmp_path / "far"}))
    there.go(f"#/compare?{RANGE}&other=baseline:far")
    values = there.tab.locator("main section").last
    low, high = values.locator(".plot").evaluate("plot => plot.layout.xaxis.range")
    drawn = values.locator(".plot").evaluate("plot => plot.data.flatMap(one => one.x)")
    assert low < min(drawn) < max(drawn) < high
    with there.tab.expect_download() as saved:
        values.locator("text=CSV").click()
    saved.value.save_as(tmp_path / "values.csv")
    rows = list(csv.DictReader((tmp_path / "values.csv").read_text().splitlines()))
    most = {
        side: max(float(one["upper"]) for one in rows if one["side"] == side) for side in ("left", "right")
    }
    assert most["left"] < 4_000
    assert most["right"] > 20_000
    assert there.faults == []


@pytest.mark.slow
def test_values_that_were_not_finite_an_hour_ago_are_not_wrong_right_now(visit, fixed_model):
    there = visit(fixed_model)
    there.go("#/overview")
    assert (
        "3 NaN or infinite values just now, 3 since the start" in there.tab.locator(".verdict").inner_text()
    )
    fixed_model.timeline._clock = lambda: EXPORTED + 3600.0
    there.go("#/overview")
    assert "infinite" not in there.tab.locator(".verdict").inner_text()
    assert "NaN or infinite since the start" in there.tab.locator("main").inner_text()


def test_the_overview_says_where_drift_begins(visit, fixed_model):
    there = visit(fixed_model)
    there.go("#/overview")
    assert "Drift begins at layer 1" in there.tab.locator(".verdict").inner_text()
    assert there.faults == []


def test_the_drift_view_tells_the_cause_and_the_mix_of_classes(visit, fixed_model):
    there = visit(fixed_model, settings=ConsoleSettings(budget=64.0, min_requests=3))
    there.go("#/drift")
    told = there.tab.locator("main").inner_text()
    assert "another mix of requests explains it" in told
    assert "c0ffee" in told
    assert there.faults == []
