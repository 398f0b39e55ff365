"""The page behind a reverse proxy that gives it a prefix of its own."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from sidecar.console.server import HttpServer
from sidecar.settings import ServerSettings
from tests.console.test_console_browser import VIEWS

PREFIX = "telemetry/"
PASSED_ON = ("content-type", "content-encoding", "cache-control", "content-security-policy", "vary")


@pytest.fixture
def proxied(pages):
    """The address of the page behind a proxy that passes on what is under the prefix, and knows nothing else."""
    there = pages().address

    async def forward(request):
        async with httpx.AsyncClient(trust_env=False, verify=False) as http:
            asked = http.build_request(
                "GET",
                f"{there}{request.path_params['path']}?{request.url.query}",
                headers={"accept-encoding": request.headers["accept-encoding"]},
            )
            reply = await http.send(asked, stream=True)
            body = b"".join([piece async for piece in reply.aiter_raw()])
        headers = {name: reply.headers[name] for name in PASSED_ON if name in reply.headers}
        return Response(body, reply.status_code, headers)

    app = Starlette(routes=[Route(f"/{PREFIX}{{path:path}}", forward)])
    proxy = HttpServer(app, ServerSettings(http_port=0), None)
    yield f"http://127.0.0.1:{proxy.start()}/{PREFIX}"
    proxy.stop(10.0)


@pytest.mark.slow
def test_every_view_works_under_a_prefix_and_asks_for_nothing_outside_it(visit, proxied):
    there = visit(address=proxied)
    there.go()
    for name in VIEWS:
        there.tab.click(f"nav a:text-is('{name.capitalize()}')")
        there.tab.wait_for_selector(f"nav a[aria-current]:text-is('{name.capitalize()}')")
        there.tab.wait_for_selector("text=Loading.", state="detached")
        there.drawn()
        assert there.tab.locator("h1").count() == 1
    assert there.tab.locator(".plot .main-svg").count() > 0
    assert (there.faults, there.elsewhere) == ([], [])


def test_a_shared_address_opens_under_a_prefix(visit, proxied):
    there = visit(address=proxied)
    there.go(VIEWS["layer"])
    assert there.tab.locator(".plot .main-svg").count() > 0
    assert there.tab.locator(".wrong").count() == 0
    assert (there.faults, there.elsewhere) == ([], [])
