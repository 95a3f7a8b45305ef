"""History, export and leaving, as a person walks through them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page

from llm_credentials import services
from project.tests.e2e.conftest import log_in

KEY = "sbx-good-0123456789abcdef"


def test_person_sees_the_history_takes_everything_along_and_leaves(
    new_context: Callable[..., BrowserContext],
    alice: User,
    site: str,
    look: Callable[[Page, str], None],
) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=KEY)
    context = new_context(color_scheme="dark", viewport={"width": 320, "height": 844})
    log_in(context, alice, site)
    page = context.new_page()
    page.goto("/settings/security/")
    page.get_by_role("link", name="View history").click()
    page.get_by_text("Key added · Sandbox").wait_for()
    look(page, "history")
    _fits(page)
    page.go_back()
    page.get_by_role("link", name="Open your data").click()
    page.get_by_role("heading", name="Your data").wait_for()
    look(page, "your-data")
    _fits(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export my data").click()
    taken = Path(download.value.path()).read_text()
    assert json.loads(taken)["account"]["username"] == "alice"
    assert KEY not in taken
    page.get_by_label("Type alice to confirm").fill("alicia")
    page.get_by_role("button", name="Delete account and keys").click()
    page.get_by_text("Type your user name, alice, to delete the account.").wait_for()
    page.get_by_label("Type alice to confirm").fill("alice")
    page.get_by_role("button", name="Delete account and keys").click()
    page.get_by_text("Your account and its keys are deleted.").wait_for()
    assert not User.objects.filter(username="alice").exists()


def _fits(page: Page) -> None:
    assert page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
