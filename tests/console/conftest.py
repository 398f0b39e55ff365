"""The states of the exporter's tests, behind HTTP."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager

import httpx
import pytest

from sidecar.console.access import Access, names_us
from sidecar.console.budget import Budget
from sidecar.console.http import Standing, application
from sidecar.console.summary import Summary
from sidecar.export.exposition import Exposition
from sidecar.server.security import Role, Tokens
from sidecar.settings import ServerSettings
from tests.console.browsing import chromium, pages, seen, visit
from tests.console.driven import driven
from tests.console.kept import ask, kept_panes, questioned, refused
from tests.export.conftest import WINDOW, export, fixed_model, fresh_model, plain_model

__all__ = [
    "ask", "chromium", "driven", "export", "fixed_model", "fresh_model", "kept_panes", "pages",
    "plain_model", "questioned", "refused", "seen", "visit",
]  # fmt: skip


@pytest.fixture
def browse(export):
    """`async with browse(*watched) as http:` a client of the application over these models."""

    @asynccontextmanager
    async def browse(
        *watched, token=None, stale=(), leaving=False, admins=None, more=(), min_requests=1, budget=None,
        clock=time.monotonic, keep_seconds=0.0, host="sidecar", names=None,
    ):  # fmt: skip
        tokens = Tokens(ServerSettings(token=token, admin_token_file=admins))
        budget = budget or Budget(64.0, clock)
        summary = Summary(watched, None, WINDOW, min_requests, keep_seconds, budget, clock)

        def admits(authorization):
            return tokens.role(authorization) is not Role.NOBODY

        def sees_inputs(authorization):
            return tokens.role(authorization) is Role.ADMIN

        exposition = Exposition(export(*watched).registry, 0.0)
        named = names_us(ServerSettings(http_names=names)) if names is not None else lambda _: True
        access = Access(admits, sees_inputs, named)
        routes = [*summary.routes(), *more]
        standing = Standing(watched, stale=lambda: stale, leaving=lambda: leaving)
        app = application(exposition, standing, access, routes)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as http:
            yield http

    return browse
