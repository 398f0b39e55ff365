"""The neuron's view in a headless Chromium: requests and inputs, in every form that inputs have."""

from __future__ import annotations

import pytest

from tests.console.browsing import Pages, Visit
from tests.console.driven import Inputs, image, text, tokens
from tests.console.kept import NOW, START

VIEW = f"#/neuron?model=digits&version=1&begin={START}&end={NOW}&layer=0&channel=7"


@pytest.fixture(scope="module")
def opened(chromium, driven, kept_panes):
    """`opened(inputs)`: a tab at the neuron of a model that kept such inputs, opened once."""
    context, served, tabs = chromium.new_context(viewport={"width": 1280, "height": 900}), [], {}

    def opened(inputs=None, width=1280):
        if (inputs, width) not in tabs:
            served.append(Pages(kept_panes, (driven(Inputs(inputs) if inputs else None),), None))
            tab = context.new_page()
            tab.set_viewport_size({"width": width, "height": 900})
            tabs[inputs, width] = Visit(tab, served[-1].address)
            tabs[inputs, width].go(VIEW)
        return tabs[inputs, width]

    yield opened
    context.close()
    for one in served:
        one.stop()


def clean(there):
    return there.faults == [] and there.elsewhere == [] and there.tab.locator(".wrong").count() == 0


def test_requests_are_listed_and_units_that_share_them_are_linked(opened):
    there = opened()
    section = there.tab.locator("section", has_text="What drives it")
    assert section.locator("tbody tr").count() == 8 + 10
    assert "among the 25 that were observed" in section.locator(".note").inner_text()
    assert "channel=0" in section.locator("td a").first.get_attribute("href")
    assert clean(there)


def test_units_that_rise_and_fall_with_it_are_told_or_why_not(opened):
    told = opened(None).tab.locator("section", has_text="Units that rise and fall with it").inner_text()
    assert "too few neighbouring panes" in told
    assert "Positions near 0" in opened(None).tab.locator("main").inner_text()


def test_without_inputs_it_says_why(opened):
    there = opened()
    assert "Not told: no inputs are kept: console.keep_inputs is 0" in there.tab.locator("main").inner_text()


def test_images_are_pictures_beside_the_unit_at_each_position(opened):
    there = opened(image)
    told = [one.get_attribute("aria-label") for one in there.tab.locator("canvas").all()]
    assert told == ["image, 8 by 8", "The unit's value at 2 by 2 positions"] * 8
    corners = there.tab.locator("canvas").first.evaluate(
        "canvas => { const all = canvas.getContext('2d').getImageData(0, 0, 8, 8).data; return [all[0], all[4 * 63]]; }"
    )
    assert corners == [255, 0]
    assert "25 of 25 inputs that are kept" in there.tab.locator(".about").inner_text()
    assert there.tab.locator(".drawn .main-svg").count() > 0
    assert clean(there)


def test_tokens_are_shaded_where_the_unit_is_large(opened):
    there = opened(tokens)
    shown = there.tab.locator(".inputs li").first.locator(".tokens span")
    assert shown.all_inner_texts() == [" twenty", "-four", "26", "27"]
    shades = [one.evaluate("span => getComputedStyle(span).backgroundColor") for one in shown.all()]
    assert [shade.endswith("0)") for shade in shades] == [True] * 3 + [False]
    assert shown.last.get_attribute("title") == "position 3: 24.07"
    assert clean(there)


def test_text_is_never_read_as_html(opened):
    there = opened(text)
    assert there.tab.locator(".inputs li .tokens").first.inner_text() == "<b>!"
    assert there.tab.locator(".inputs b").count() == 0
    assert clean(there)


@pytest.mark.parametrize("inputs", [image, tokens])
def test_axe_finds_no_serious_fault_in_inputs(opened, inputs):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    found = axe.run(opened(inputs).tab).response["violations"]
    grave = [one for one in found if one["impact"] in ("serious", "critical")]
    assert [(one["id"], one["nodes"][0]["html"]) for one in grave] == []


def test_inputs_fit_a_phone(opened):
    assert opened(image, width=375).tab.evaluate("document.documentElement.scrollWidth") == 375
