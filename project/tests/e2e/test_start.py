"""The first key in three steps, from the front door to a conversation."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page, expect

from llm_credentials.models import UserCredential
from project.tests.e2e.conftest import log_in

KEY = "sbx-good-CANARY-e2e-4f2a"

pytestmark = pytest.mark.django_db(transaction=True)


def test_first_key_in_three_steps(
    new_context: Callable[..., BrowserContext],
    alice: User,
    site: str,
    look: Callable[[Page, str], None],
) -> None:
    context = new_context(color_scheme="dark", viewport={"width": 390, "height": 844}, reduced_motion="reduce")
    log_in(context, alice, site)
    page = context.new_page()
    page.goto("/")
    expect(page).to_have_url(re.compile("/settings/llm/start/$"))
    page.get_by_label("Key", exact=True).fill("who-knows-whose-0123")
    page.get_by_role("button", name="Save and test").click()
    expect(page.get_by_text("Choose its provider.")).to_be_visible()
    page.get_by_label("Key", exact=True).fill(KEY)
    expect(page.get_by_role("radio", name="Sandbox")).to_be_checked()
    expect(page.get_by_text("A key of Sandbox, by its shape.")).to_be_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    look(page, "start")
    page.get_by_role("button", name="Save and test").click()
    expect(page.get_by_text("Key accepted. sandbox-chat answered in")).to_be_visible()
    expect(page.get_by_role("button", name="Start a conversation")).to_be_visible()
    expect(page.get_by_text("Mend the key")).to_be_hidden()
    look(page, "start-works")
    page.get_by_role("button", name="Start a conversation").click()
    expect(page).to_have_url(re.compile("/conversations/"))


def test_first_key_without_scripts(new_context: Callable[..., BrowserContext], alice: User, site: str) -> None:
    context = new_context(java_script_enabled=False)
    log_in(context, alice, site)
    page = context.new_page()
    page.goto("/settings/llm/start/")
    page.get_by_label("Key", exact=True).fill("sbx-bad-0123456789")
    page.get_by_role("button", name="Save and test").click()
    expect(page.get_by_text("Sandbox refused this key (401)")).to_be_visible(timeout=15_000)
    expect(page.get_by_role("link", name="Mend the key")).to_be_visible()
    assert UserCredential.objects.get().provider == "sandbox"
