"""Staff settle the site's models in the admin."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page, expect

from llm_credentials import site_settings
from project.tests.e2e.conftest import PICTURES, log_in

GOOD = "sbx-good-CANARY-0123456789"
PAGE = "/admin/llm_credentials/systemconfig/models/"

pytestmark = pytest.mark.django_db(transaction=True)


def _keep(page: Page, name: str) -> None:
    """A picture; the admin's own frame is not ours to hold to our rules."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


def test_a_key_is_tried_before_it_is_saved(new_context: Callable[..., BrowserContext], site: str, staff: User) -> None:
    context = new_context()
    log_in(context, staff, site)
    page = context.new_page()
    page.goto(PAGE)
    form = page.locator("#completions-form")
    form.get_by_label("Provider").select_option("openai_compatible")
    expect(form.get_by_label("Address")).to_be_visible()
    form.get_by_label("Provider").select_option("sandbox")
    expect(form.get_by_label("Address")).to_have_count(0)
    form.get_by_label("API key").fill("short")
    form.get_by_role("button", name="Load models").click()
    expect(form.locator("#completions-list")).to_contain_text("too short")
    form.get_by_label("API key").fill(GOOD)
    form.get_by_label("API key").press("Tab")  # a key that was typed fetches its models by itself
    expect(form.locator("#completions-list")).to_contain_text("to choose from")
    form.get_by_label("Model").fill("sandbox-fast")
    form.get_by_role("button", name="Test").click()
    expect(page.locator("#site-test")).to_contain_text("Key accepted. sandbox-fast answered")
    _keep(page, "site-models-tested")
    form.get_by_role("button", name="Save completions").click()
    expect(page.get_by_text("Completions are saved.")).to_be_visible()
    found = site_settings.read().completions
    assert (found.provider, found.model, found.api_key_set) == ("sandbox", "sandbox-fast", True)
    page.set_viewport_size({"width": 390, "height": 800})
    _keep(page, "site-models-narrow")
    page.emulate_media(color_scheme="dark")
    _keep(page, "site-models-narrow-dark")
