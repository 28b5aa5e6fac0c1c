"""A real browser for the tests, headless: the machine's Chromium, or Debian's where a test may install it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
"""It runs our own page only, and finds no other host than this machine."""


def find_browser() -> str:
    """The browser's program. Fails in words where there is none and none can be had."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (("update", "-qq"), ("install", "-y", "-qq", "--no-install-recommends", "chromium")):
            subprocess.run(["apt-get", *command], check=False, capture_output=True, timeout=600)
        found = shutil.which("chromium")
    assert found is not None, f"the dashboard's test needs a browser on the path: one of {', '.join(NAMES)}"
    return found


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """A browser for as long as the block lasts."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_browser(), args=list(FLAGS))
        try:
            yield browser
        finally:
            await browser.close()
