"""The page as files: who may have them, and what they may do in a browser."""

from __future__ import annotations

import gzip
import re

import pytest

from sidecar.console import sources
from sidecar.console.files import Files

SOURCES = sorted(sources.STATIC.rglob("*.js"))


async def test_the_page_may_run_no_inline_script_and_talk_to_no_other_host(browse):
    async with browse() as http:
        reply = await http.get("/")
    policy = dict(part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"


def test_the_page_has_no_inline_script_and_only_relative_addresses():
    text = (sources.FOLDER / "index.html").read_text()
    assert re.findall(r"<script(?![^>]* src=)", text) == []
    assert all(not link.startswith(("/", "http")) for link in re.findall(r'(?:src|href)="([^"]*)"', text))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_script_reads_text_as_html(source):
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", source.read_text())


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/static/style.css", "/static/plotly.min.js"])
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


async def of_the_page(http):
    """The addresses that the page names."""
    return re.findall(r'(?:src|href)="(static/[^"]*)"', (await http.get("/")).text)


async def test_what_the_page_loads_may_be_kept_for_good_and_the_page_itself_may_not(browse):
    async with browse() as http:
        named = await of_the_page(http)
        assert len(named) == 4
        for path in named:
            assert "immutable" in (await http.get(path)).headers["cache-control"]
        assert (await http.get("/")).headers["cache-control"] == "no-cache"
        assert (await http.get("/static/app.js")).headers["cache-control"] == "no-cache"


def test_the_address_of_the_files_changes_with_any_of_them():
    whole = {"a.js": b"1", "b.js": b"2"}

    def digest(contents):
        return Files({name: lambda content=content: content for name, content in contents.items()}).digest

    assert digest(whole) == digest(dict(reversed(whole.items())))
    assert len({digest(whole), digest(whole | {"b.js": b"3"}), digest({"a.js": b"1"})}) == 3


@pytest.mark.parametrize("name", ["app.js", "style.css", "icon.svg", "plotly.min.js"])
async def test_a_file_is_compressed_for_whoever_can_read_that(browse, name):
    async with browse() as http:
        plain = await http.get(f"/static/{name}", headers={"accept-encoding": "identity"})
        packed = await http.get(f"/static/{name}", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == plain.content
    assert int(packed.headers["content-length"]) == len(gzip.compress(plain.content, 6))
    assert packed.headers["vary"] == plain.headers["vary"] == "accept-encoding"


async def test_files_of_another_release_are_not_given_for_those_of_this_one(browse):
    async with browse() as http:
        assert (await http.get("/static/0123456789abcdef/app.js")).status_code == 404


async def test_without_plotly_the_page_says_what_it_needs(browse, monkeypatch):
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    async with browse() as http:
        assert "pip install 'activation-sidecar[console]'" in (await http.get("/")).text
        assert (await http.get("/static/plotly.min.js")).status_code == 404
