"""The facilitator described: OpenAPI for programs, and pages that show it to people.

FastAPI makes both and has no other part in the service. Loading it takes a seventh of a start, so it is loaded when
somebody asks for a description, on a thread, and nobody else waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

if TYPE_CHECKING:
    from fastapi import FastAPI

PATHS = ("/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc")
"""Where descriptions are."""


class Described(NamedTuple):
    """One route: its path, who answers, the HTTP method, and what it does in a few words."""

    path: str
    answer: Callable[[Request], Awaitable[Response]]
    method: str
    summary: str


class Description:
    """ASGI app that answers `PATHS` for a service of these routes, which are not served here."""

    def __init__(self, title: str, version: str, routes: Sequence[Described]) -> None:
        self._title, self._version, self._routes = title, version, routes
        self._made = cache(self._make)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pages = await asyncio.to_thread(self._made)
        await pages(scope, receive, send)

    def _make(self) -> FastAPI:
        from fastapi import FastAPI

        pages = FastAPI(title=self._title, version=self._version)
        for route in self._routes:
            pages.add_api_route(route.path, route.answer, methods=[route.method], summary=route.summary)
        pages.openapi()
        return pages
