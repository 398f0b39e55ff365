"""A report: the page and its answers in one file."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import struct

import pytest

from sidecar.console import sources
from sidecar.console.hindsight import Hindsight
from sidecar.console.report import Reported
from sidecar.errors import ConfigError
from sidecar.reports import VIEWS, photograph, write
from sidecar.settings import ConsoleSettings, DriftSettings
from tests.console.kept import NOW, START

WHOLE = Reported("digits", "1", START, NOW)
ALONE = Hindsight(DriftSettings(), lambda model, version: None)
"""No reference is kept."""


@pytest.fixture(scope="session")
def report(kept_panes, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write(kept_panes, ConsoleSettings(), ALONE, WHOLE, path, lambda: NOW)
    return path


def answers(report):
    return json.loads(re.search(r'id="answers">(.*?)</script>', report.read_text()).group(1))


def test_a_report_allows_its_own_scripts_and_nothing_else(report):
    text = report.read_text()
    policy = re.search(r'content-security-policy" content="([^"]*)"', text).group(1)
    scripts = re.findall(r"<script(?: type=\"module\")?>(.*?)</script>", text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert f"script-src {allowed};" in policy
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy


def test_a_name_in_a_report_cannot_end_the_script_that_it_stands_in(report):
    assert "<img" not in report.read_text()
    modules = [tap["module"] for tap in answers(report)["taps"]["models"][0]["taps"]]
    assert "<img onerror=x>" in modules


def test_a_report_withholds_what_the_page_withholds(kept_panes, tmp_path):
    write(kept_panes, ConsoleSettings(), ALONE, Reported("rare"), tmp_path / "report.html", lambda: NOW)
    layer = answers(tmp_path / "report.html")["layer layer=0 site=resid"]
    assert "console.min_requests is 20" in layer["refused"]


def test_a_report_has_the_course_of_units_that_one_would_ask_about_and_why(report):
    found = answers(report)
    units = {one["channel"]: one["reasons"] for one in found["units layer=0 site=resid"]["units"]}
    assert units == {
        9: ["largest magnitude", "a spike"],
        7: ["largest magnitude", "a spike"],
        40: ["largest magnitude", "a spike"],
        3: ["dead"],
    }
    for unit in units:
        assert len(found[f"neuron axis=time channel={unit} layer=0 site=resid"]["start"]) == 6


def test_a_report_of_a_step_tells_of_that_step(kept_panes, tmp_path):
    write(
        kept_panes,
        ConsoleSettings(),
        ALONE,
        Reported("digits", "1", step=20_000),
        tmp_path / "report.html",
        lambda: NOW,
    )
    found = answers(tmp_path / "report.html")
    assert found["layer layer=0 site=resid"]["covered"]["step"] == 20_000
    assert found["compare"]["right"]["step"] == 10_000


@pytest.mark.parametrize(
    ("reported", "said"),
    [
        (Reported("nobody"), "nothing is known of model 'nobody'"),
        (Reported("digits", "1", step=5), "step 5 is not kept"),
    ],
)
def test_a_report_of_what_is_not_kept_is_refused(kept_panes, tmp_path, reported, said):
    with pytest.raises(ConfigError, match=said):
        write(kept_panes, ConsoleSettings(), ALONE, reported, tmp_path / "report.html", lambda: NOW)


def test_a_store_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="there is no store"):
        write(tmp_path / "no.db", ConsoleSettings(), ALONE, WHOLE, tmp_path / "report.html", lambda: NOW)


def test_without_plotly_a_report_says_what_it_needs(kept_panes, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install"):
        write(kept_panes, ConsoleSettings(), ALONE, WHOLE, tmp_path / "report.html", lambda: NOW)


def test_pictures_without_a_chromium_are_refused(report, tmp_path):
    with pytest.raises(ConfigError, match="needs a Chromium"):
        next(photograph(report, tmp_path, str(tmp_path)))


@pytest.mark.slow
def test_a_picture_is_as_tall_as_its_view(visit, report, tmp_path):
    there = visit(address=report.as_uri())
    there.go("#/overview")
    tall = there.tab.evaluate("document.body.offsetHeight")
    picture = next(photograph(report, tmp_path, os.environ["PATH"]))
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    assert (picture.name, width) == ("overview.png", 1280)
    assert height == pytest.approx(tall, abs=40)


def test_each_view_of_a_report_opens_in_a_browser_without_a_server(visit, report):
    there = visit(address=report.as_uri())
    there.go()
    for name in VIEWS:
        there.tab.evaluate(f"location.hash = '#/{name}'")
        there.tab.wait_for_selector(f"nav a[aria-current]:text-is('{name.capitalize()}')")
        there.drawn()
        assert there.tab.locator(".wrong").count() == 0
        assert there.tab.locator("text=Loading.").count() == 0
    assert (there.faults, there.elsewhere) == ([], [])


def test_a_report_offers_those_units_whose_course_it_has(visit, report):
    there = visit(address=report.as_uri())
    there.go("#/neuron?layer=1")
    listed = there.tab.locator("section", has_text="Units in this report").locator("tbody a")
    choices = there.tab.get_by_label("Unit").locator("option").all_inner_texts()
    assert [choice.split(" · ")[0] for choice in choices] == listed.all_inner_texts()
    listed.last.click()
    there.tab.wait_for_selector("h1:has-text('Unit 3 of layer 1')")
    there.drawn()
    assert there.tab.locator(".wrong").count() == 0
    assert there.tab.locator(".plot .main-svg").count() > 0
