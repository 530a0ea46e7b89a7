"""Headless Chromium, which Debian's package installs; tests drive it with playwright."""

import shutil
from pathlib import Path

from tests.services.cache import ServiceMissing

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = ("--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb")
"""Containers run it as root, which Chromium's sandbox refuses, and have little shared memory."""


def fetch() -> Path:
    """Find the browser. Nothing is fetched: that is the package manager's business. Raises `ServiceMissing`."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise ServiceMissing("Chromium is not installed: apt-get install chromium")
    return Path(found)
