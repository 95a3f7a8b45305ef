"""Finds a Chromium for the browser tests, or gets one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from project import env

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)


def browser_path() -> str | None:
    """The executable of an installed Chromium or Chrome; ``None``: Playwright's own is to be used."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or next((place for place in MAC_PLACES if Path(place).exists()), None)


def ensure_browser() -> None:
    """Install one unless there is one: from the system's packages as root, else Playwright's own."""
    if browser_path() or _playwrights_own():
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = env.child_environment(DEBIAN_FRONTEND="noninteractive")
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "chromium"]):
            subprocess.run(["apt-get", *command], stdout=subprocess.DEVNULL, env=environment)
        if browser_path():
            return
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=True)


def _playwrights_own() -> bool:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return Path(playwright.chromium.executable_path).exists()
