"""The page as files: who may have them, and what they may do in a browser."""

from __future__ import annotations

import re

import pytest

from sidecar.console import page

SOURCES = sorted(page.STATIC.rglob("*.js"))


async def test_the_page_may_run_no_inline_script_and_talk_to_no_other_host(browse):
    async with browse() as http:
        reply = await http.get("/")
    policy = dict(part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"


def test_the_page_has_no_inline_script_and_only_relative_addresses():
    text = (page.FOLDER / "index.html").read_text()
    assert re.findall(r"<script(?![^>]* src=)", text) == []
    assert all(not link.startswith(("/", "http")) for link in re.findall(r'(?:src|href)="([^"]*)"', text))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_script_reads_text_as_html(source):
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", source.read_text())


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/static/views/layer.js", "/static/plotly.min.js"])
async def test_the_files_of_the_page_need_no_token(browse, path):
    async with browse(token=b"secret") as http:
        assert (await http.get(path)).status_code == 200
        assert (await http.get("/api/v1/status")).status_code == 401


@pytest.mark.parametrize(
    "path", ["/static/../http.py", "/static/%2e%2e/http.py", "/static//etc/passwd", "/staticx", "/static"]
)
async def test_nothing_beside_the_files_of_the_page_is_given(browse, path):
    async with browse(token=b"secret") as http:
        assert (await http.get(path)).status_code in (401, 404)


async def test_without_plotly_the_page_says_what_it_needs(browse, monkeypatch):
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    async with browse() as http:
        assert "pip install 'activation-sidecar[console]'" in (await http.get("/")).text
        assert (await http.get("/static/plotly.min.js")).status_code == 404
