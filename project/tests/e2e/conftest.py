"""A real Chromium against the real site on uvicorn, with a worker and the sandbox provider."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from project.env import BASE_DIR
from project.tests.browser import browser_path

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
PICTURES = BASE_DIR / ".run" / "pictures"
PATIENCE_MS = 30_000
"""For what a busy machine does in the end."""
expect.set_options(timeout=PATIENCE_MS)
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
looking: list[str] = []
"""The name of the page that is being looked at."""
OF_THE_LOOK = "Applying inline style violates"
"""A picture sets styles, which a page that changes at that moment may not copy."""
WITHOUT_STYLES = "() => document.querySelectorAll('[style]').forEach((one) => one.removeAttribute('style'))"
"""What it leaves behind, so that it is not copied later."""
SERIOUS = """async () => {
  const found = await axe.run(document, { resultTypes: ["violations"] });
  const serious = found.violations.filter((one) => ["serious", "critical"].includes(one.impact));
  return serious.map((one) => `${one.id}: ${one.help}`);
}"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def site(live_site: str, sandbox_url: str, celery_worker_thread: Any) -> str:
    """The whole site: web, worker, sandbox."""
    return live_site


@pytest.fixture
def new_context(browser: Browser, site: str) -> Iterator[Callable[..., BrowserContext]]:
    """Makes browser contexts that fail the test when a page reports an error or asks another host."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        # A refused form is answered with 422, which the browser reports as an error of the network.
        if looking and message.text.startswith(OF_THE_LOOK):
            return
        if message.type == "error" and "status of 4" not in message.text and "status of 503" not in message.text:
            complaints.append(message.text)

    def make(**options: Any) -> BrowserContext:
        base_url: str = options.setdefault("base_url", site)
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        context.on("console", listen)
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        context.on(
            "request",
            lambda request: None if request.url.startswith((base_url, "data:")) else complaints.append(request.url),
        )
        contexts.append(context)
        return context

    yield make
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(new_context: Callable[..., BrowserContext]) -> Page:
    return new_context().new_page()


def log_in(context: BrowserContext, user: User, site: str) -> None:
    """Give the browser a session of this user, without the login page."""
    client = Client()
    client.force_login(user)
    value = client.cookies[settings.SESSION_COOKIE_NAME].value
    context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": value, "url": site}])


@pytest.fixture
def alices_page(new_context: Callable[..., BrowserContext], alice: User, site: str) -> Page:
    context = new_context()
    log_in(context, alice, site)
    return context.new_page()


@pytest.fixture
def look() -> Callable[[Page, str], None]:
    """Keeps a picture of the page and holds it to the accessibility rules."""

    def look(page: Page, name: str) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        looking.append(name)
        page.screenshot(path=Path(PICTURES) / f"{name}.png", full_page=True)
        page.evaluate(WITHOUT_STYLES)
        page.evaluate(AXE)
        serious = page.evaluate(SERIOUS)
        looking.clear()
        assert serious == [], name

    return look
