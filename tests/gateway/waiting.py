"""Waiting for something that a test has set going, and no longer than a few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from fastapi import FastAPI
from fastapi.responses import Response


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as `condition` holds."""
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it never came to pass")


def slow_route(app: FastAPI) -> tuple[asyncio.Event, asyncio.Event]:
    """Have the app serve `/slow`: the first event tells that it was asked, and the second lets it answer."""
    started, go_on = asyncio.Event(), asyncio.Event()

    @app.get("/slow")
    async def slow() -> Response:
        started.set()
        await go_on.wait()
        return Response(b"slow")

    return started, go_on
