"""Keys out of a pasted .env text, looked at first; settings out and in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page, expect

from llm_credentials import services
from llm_credentials.models import LLMSettings, UserCredential
from project.tests.e2e.conftest import log_in

PLACE = "/settings/llm/transfer/"
ENV = """# keys
OPENAI_API_KEY=sk-proj-CANARY0123456789abcd4f2a
OPENAI_MODEL=gpt-6.1-terra
FAST=sbx-good-CANARY-0123456789
CLOSE=sk-CANARY0123456789abcdef
MISTRAL_API_KEY=short
DATABASE_URL=postgres://db/x
"""

pytestmark = pytest.mark.django_db(transaction=True)


def test_keys_and_settings_move_in(
    new_context: Callable[..., BrowserContext],
    alice: User,
    site: str,
    look: Callable[[Page, str], None],
    tmp_path: Path,
) -> None:
    services.settings_update(user=alice, temperature=0.4)
    context = new_context(color_scheme="light", viewport={"width": 1280, "height": 844}, reduced_motion="reduce")
    log_in(context, alice, site)
    page = context.new_page()
    page.goto(PLACE)
    with page.expect_download() as download:
        page.get_by_role("link", name="Export settings").click()
    exported = tmp_path / "settings.json"
    download.value.save_as(exported)
    services.settings_update(user=alice, temperature=1)
    page.get_by_label("Paste the text").fill(ENV)
    page.get_by_role("button", name="Look at it").first.click()
    page.get_by_label("Provider of CLOSE").select_option("deepseek")
    page.get_by_label("Import CLOSE").check()
    assert page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    look(page, "transfer-keys")
    page.get_by_role("button", name="Import the chosen keys").click()
    expect(page.get_by_text("3 keys are saved.")).to_be_visible()
    assert set(UserCredential.objects.values_list("provider", "name")) == {
        ("openai", "default"),
        ("sandbox", "fast"),
        ("deepseek", "default"),
    }
    page.goto(PLACE)
    page.get_by_label("A file that was exported here").set_input_files(exported)
    page.get_by_role("button", name="Look at it").last.click()
    look(page, "transfer-settings")
    page.get_by_role("button", name="Change 1 thing").click()
    expect(page.get_by_text("1 thing was changed.")).to_be_visible()
    assert LLMSettings.of(alice).temperature == 0.4
