"""The providers page as people live with it: several tabs, several keys, long lists."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page, expect

from llm_credentials import services
from project.tests.e2e.conftest import log_in

KEY = "sbx-good-CANARY-e2e-4f2a"
PLACE = "/settings/llm/"

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_test_is_shown_in_every_open_tab(alices_page: Page, alice: User, look: Callable[[Page, str], None]) -> None:
    """The page's own questions, every second, get no answer here: only the server's events say when to look."""
    services.credential_save(user=alice, provider="sandbox", api_key=KEY, model="sandbox-instant")
    other = alices_page.context.new_page()
    alices_page.context.route("**/*?seen=*", lambda route: route.fulfill(status=204))
    other.goto(PLACE)
    alices_page.goto(f"{PLACE}sandbox/")
    alices_page.get_by_role("button", name="Test key").click()
    for page in (alices_page, other):
        card = page.locator("#card-sandbox-default")
        expect(card).to_contain_text("Key accepted. sandbox-instant answered in")
        expect(card.get_by_role("list", name="What this key can do")).to_contain_text("Embeddings of 256 numbers")
        expect(card.locator(".marks")).to_contain_text("Valid")
    look(alices_page, "providers-abilities")


@pytest.fixture
def keys(alice: User, site: str) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=KEY, model="sandbox-instant")
    for provider, name, priority in (("openai", "default", 110), ("openai", "work", 120), ("mistral", "default", 130)):
        services.credential_save(
            user=alice, provider=provider, name=name, api_key="sk-e2e-0123456789abcdef", priority=priority
        )


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_keys_are_ordered_by_keyboard_and_by_hand(
    new_context: Callable[..., BrowserContext],
    alice: User,
    keys: None,
    site: str,
    look: Callable[[Page, str], None],
    scheme: str,
    width: int,
) -> None:
    context = new_context(color_scheme=scheme, viewport={"width": width, "height": 844}, reduced_motion="reduce")
    log_in(context, alice, site)
    page = context.new_page()
    page.goto(PLACE)
    page.get_by_role("button", name="Move Mistral up").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".cards > [data-key]").nth(2)).to_contain_text("Mistral")
    expect(page.get_by_role("button", name="Move Mistral up")).to_be_focused()
    rows = page.locator(".cards > [data-key]")
    if width > 1000:
        rows.filter(has_text="Mistral").drag_to(rows.first, target_position={"x": 60, "y": 5})
    else:
        page.keyboard.press("Enter")
        expect(rows.nth(1)).to_contain_text("Mistral")
        expect(page.get_by_role("button", name="Move Mistral up")).to_be_focused()
        page.keyboard.press("Enter")
    expect(page.locator(".chain .tile").first).to_contain_text("Mistral")
    expect(page.locator("#card-mistral-default")).to_contain_text("Answers first")
    page.goto(f"{PLACE}mistral/")
    page.get_by_text("Choose from the list").click()
    page.get_by_label("Search the models of Mistral").fill("very low")
    expect(page.get_by_role("status").filter(has_text="of")).to_have_text("4 of 6 models")
    page.get_by_role("button", name="ministral-8b-latest").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value("ministral-8b-latest")
    assert page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    look(page, f"providers-several-{scheme}-{width}")


def test_a_switch_goes_back_when_the_site_does_not_follow(alices_page: Page, keys: None) -> None:
    page = alices_page
    page.goto(PLACE)
    switch = page.get_by_role("switch", name="Use Mistral")
    page.route("**/toggle/", lambda route: route.fulfill(status=503, body=""))
    switch.click()
    expect(switch).to_have_attribute("aria-checked", "true")
    expect(page.locator("#messages")).to_contain_text("could not do that")
    page.unroute("**/toggle/")
    switch.click()
    expect(switch).to_have_attribute("aria-checked", "false")
