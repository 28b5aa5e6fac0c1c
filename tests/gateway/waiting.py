"""Waiting for something that a test has set going, and no longer than a few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as `condition` holds."""
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it never came to pass")
