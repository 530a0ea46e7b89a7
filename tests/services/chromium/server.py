"""Headless Chromium, which Debian's package installs; tests drive it with playwright."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from tests.services.cache import ServiceMissing

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = ("--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb")
"""Containers run it as root, which Chromium's sandbox refuses, and have little shared memory."""


def fetch() -> Path:
    """Find the browser. Nothing is fetched: that is the package manager's business. Raises `ServiceMissing`."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise ServiceMissing("Chromium is not installed: apt-get install chromium")
    return Path(found)


@asynccontextmanager
async def serve() -> AsyncIterator[Browser]:
    """A browser until the block ends. Raises `ServiceMissing`."""
    path = fetch()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(_OPTIONS))
        try:
            yield browser
        finally:
            await browser.close()
