"""The providers page as people live with it: several tabs, several keys, long lists."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page, Route, expect

from llm_credentials import services
from llm_credentials.models import ConnectionTest
from project.tests.e2e.conftest import log_in

KEY = "sbx-good-CANARY-e2e-4f2a"
PLACE = "/settings/llm/"
OVERTAKEN = """<p>overtaken</p><span id="status-sandbox-default" hx-swap-oob="true">overtaken</span>"""

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


def test_an_answer_that_was_overtaken_is_not_looked_at(alices_page: Page, alice: User) -> None:
    """The server told of the test while the page's own question about it was under way."""
    page = alices_page
    key = services.credential_save(user=alice, provider="sandbox", api_key=KEY).credential
    ConnectionTest.objects.create(user=alice, provider="sandbox", credential=key, state=ConnectionTest.State.RUNNING)
    late: list[Route] = []
    page.route("**/events/", lambda route: route.fulfill(status=204))  # so that the page asks by itself
    page.route("**/*?seen=*", lambda route: late.append(route))
    with page.expect_request("**/*?seen=*"):
        page.goto(PLACE)
    page.evaluate(
        "htmx.ajax('GET', document.querySelector('[data-test]').dataset.test, '[id^=test-]')"
    )  # as live.js does
    with page.expect_request("**/*?seen=*"):
        late[0].fulfill(body=OVERTAKEN, content_type="text/html")
    expect(page.locator("#card-sandbox-default")).not_to_contain_text("overtaken")


@pytest.fixture
def keys(alice: User, site: str) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=KEY, model="sandbox-instant")
    for provider, name, priority in (("openai", "default", 110), ("openai", "work", 120), ("mistral", "default", 130)):
        services.credential_save(
            user=alice, provider=provider, name=name, api_key="sk-e2e-0123456789abcdef", priority=priority
        )


def test_keys_are_ordered_by_keyboard_and_by_hand(
    new_context: Callable[..., BrowserContext], alice: User, keys: None, site: str, look: Callable[[Page, str], None]
) -> None:
    context = new_context(viewport={"width": 1280, "height": 844}, reduced_motion="reduce")
    log_in(context, alice, site)
    page = context.new_page()
    page.goto(PLACE)
    first = page.locator(".chain .tile").first
    page.get_by_role("button", name="Move Mistral up").focus()
    for _ in range(4):  # faster than the site answers, and once more than there are places
        page.keyboard.press("Enter")
    expect(page.locator("[data-moved]")).to_have_text("Mistral stands at place 1 of 4")
    expect(first).to_contain_text("Mistral")
    expect(page.locator("#card-mistral-default")).to_contain_text("Answers first")
    expect(page.get_by_role("button", name="Move Mistral up")).to_be_focused()
    rows = page.locator(".cards > [data-key]")
    rows.last.drag_to(rows.first, target_position={"x": 60, "y": 5})
    expect(first).not_to_contain_text("Mistral")
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{PLACE}mistral/")
    page.get_by_text("Choose from the list").click()
    page.get_by_label("Search the models of Mistral").fill("very low")
    expect(page.get_by_role("status").filter(has_text="of")).to_have_text("4 of 6 models")
    page.get_by_role("button", name="ministral-8b-latest").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value("ministral-8b-latest")
    assert page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    look(page, "providers-several")


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


def test_escape_closes_what_is_open_and_loses_nothing_typed(alices_page: Page, keys: None) -> None:
    page = alices_page
    page.goto(f"{PLACE}sandbox/")
    card = page.locator("#card-sandbox-default")
    card.get_by_role("link", name="Remove key…").click()
    expect(card.get_by_role("button", name="Remove the Sandbox key")).to_be_focused()
    page.keyboard.press("Escape")
    key = card.get_by_label("Key", exact=True)
    key.fill("sbx-typed")
    page.keyboard.press("Escape")
    expect(key).to_have_value("sbx-typed")
    key.fill("")
    page.keyboard.press("Escape")
    expect(card.get_by_role("button", name="Save")).to_have_count(0)
    expect(card).to_be_visible()
    page.locator("details.account summary").first.click()
    page.keyboard.press("Escape")
    expect(page.locator("details.account").first).not_to_have_attribute("open", "")
