"""What a person does first: sign up, paste a key, see it tested, talk, stop."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page, expect

from llm_credentials import removal, services
from llm_credentials.models import UserCredential
from project.tests.e2e.conftest import log_in
from project.tests.servers import wait_until

KEY = "sbx-good-CANARY-e2e-4f2a"
BAD_KEY = "sbx-bad-0123456789"

pytestmark = pytest.mark.django_db(transaction=True)


def open_card(page: Page, provider: str = "Sandbox") -> Any:
    page.goto("/settings/llm/")
    page.get_by_role("link", name=re.compile(rf"^{provider}\s*:")).click()
    return page.locator("li.credential.is-open")


def save_key(page: Page, key: str, model: str = "sandbox-instant") -> Any:
    card = open_card(page)
    card.get_by_label("Key", exact=True).fill(key)
    card.get_by_label("Model", exact=True).fill(model)
    card.get_by_role("button", name="Save", exact=True).last.click()
    return page.locator("#card-sandbox-default")


def ask(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("button", name="Send").click()


def test_from_sign_up_to_an_answer(page: Page, look: Callable[[Page, str], None]) -> None:
    page.goto("/")
    page.get_by_role("link", name="Sign up").first.click()
    page.get_by_label("Username").fill("dora")
    page.get_by_label("Password", exact=True).fill("a-long-enough-phrase")
    page.get_by_label("Password (again)").fill("a-long-enough-phrase")
    look(page, "sign-up")
    page.get_by_role("button", name="Sign up").click()
    card = save_key(page, KEY)
    expect(card).to_contain_text("Key accepted. sandbox-instant answered in")
    expect(card).to_contain_text("•••• 4f2a")
    look(page, "providers-valid")
    page.goto("/agents/")
    look(page, "agents")
    page.get_by_role("button", name="Start a conversation").first.click()
    ask(page, "what is 17 * 23?")
    answer = page.locator(".turn-answer").last
    expect(answer).to_contain_text("391")
    expect(answer).to_contain_text("Sandbox")
    expect(answer).to_contain_text("your key")
    look(page, "conversation")
    page.reload()
    expect(page.locator(".turn-answer").last).to_contain_text("391")


def test_stop_ends_the_answer_and_closes_upstream(alices_page: Page, alice: User, sandbox_url: str) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=KEY, model="sandbox-slow")
    httpx2.delete(f"{sandbox_url}/_sandbox/requests")
    alices_page.goto("/agents/")
    alices_page.get_by_role("button", name="Start a conversation").first.click()
    ask(alices_page, "count to 500")
    expect(alices_page.locator(".turn-answer")).to_contain_text("2")
    alices_page.get_by_role("button", name="Stop").click()
    expect(alices_page.locator(".turn-answer")).to_contain_text("Stopped here")
    gone = {"client_gone": "true"}
    wait_until(
        lambda: httpx2.get(f"{sandbox_url}/_sandbox/requests", params=gone).json()["count"] == 1,
        "the provider's stream to be closed",
    )
    expect(alices_page.get_by_role("button", name="Send")).to_be_visible()


def test_leaving_the_page_closes_upstream_and_keeps_the_part(alices_page: Page, alice: User, sandbox_url: str) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=KEY, model="sandbox-slow")
    httpx2.delete(f"{sandbox_url}/_sandbox/requests")
    alices_page.goto("/agents/")
    alices_page.get_by_role("button", name="Start a conversation").first.click()
    ask(alices_page, "count to 500")
    expect(alices_page.locator(".turn-answer")).to_contain_text("2")
    conversation = alices_page.url
    alices_page.goto("/settings/llm/")
    gone = {"client_gone": "true"}
    wait_until(
        lambda: httpx2.get(f"{sandbox_url}/_sandbox/requests", params=gone).json()["count"] == 1,
        "the provider's stream to be closed",
    )
    alices_page.goto(conversation)
    expect(alices_page.locator(".turn-answer")).to_contain_text("Stopped here")


def test_wrong_key_is_refused_in_words_and_can_be_mended(alices_page: Page, look: Callable[[Page, str], None]) -> None:
    card = save_key(alices_page, BAD_KEY)
    expect(card).to_contain_text("Sandbox refused this key (401)")
    look(alices_page, "providers-refused")
    card = save_key(alices_page, KEY)
    expect(card).to_contain_text("Key accepted")


def test_a_key_is_tested_before_it_is_saved(alices_page: Page) -> None:
    card = open_card(alices_page)
    card.get_by_label("Key", exact=True).fill(KEY)
    card.get_by_role("button", name="Test key").click()
    expect(card).to_contain_text("It is not saved yet")
    assert not UserCredential.objects.exists()


def test_bad_input_is_explained_beside_its_field(alices_page: Page, look: Callable[[Page, str], None]) -> None:
    card = open_card(alices_page)
    card.get_by_label("Key", exact=True).fill("short")
    card.get_by_label("Model", exact=True).fill("../../admin")
    card.get_by_role("button", name="Save", exact=True).last.click()
    expect(card.locator("[data-errors-for$=api_key]")).not_to_be_empty()
    expect(card.locator("[data-errors-for$=model]")).not_to_be_empty()
    look(alices_page, "providers-errors")
    assert not UserCredential.objects.exists()


def test_remove_names_the_key_and_takes_it_away(alices_page: Page, alice: User) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=KEY)
    card = open_card(alices_page)
    card.get_by_role("link", name="Remove key…").click()
    alices_page.get_by_role("button", name="Remove the Sandbox key ending 4f2a").click()
    expect(alices_page.get_by_role("heading", name="Your keys")).not_to_be_visible()
    assert not UserCredential.objects.exists()


def test_a_test_survives_a_reload(alices_page: Page, alice: User) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key="sbx-slow-0.5-123456")
    card = open_card(alices_page)
    card.get_by_role("button", name="Test key").click()
    expect(card.get_by_role("list", name="Steps of the test")).to_be_visible()
    alices_page.reload()
    expect(alices_page.locator("#card-sandbox-default")).to_contain_text("Key accepted")


def test_everything_by_keyboard(alices_page: Page) -> None:
    """Add, test, choose, switch off and talk without a mouse."""
    page = alices_page
    page.goto("/settings/llm/")
    tab_to(page, "Sandbox: add key")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#card-sandbox-default")).to_contain_text("Key accepted")
    page.goto("/settings/llm/")
    tab_to(page, "Use Sandbox")
    with page.expect_response("**/toggle/"):
        page.keyboard.press("Space")
    expect(page.get_by_role("switch", name="Use Sandbox")).to_have_attribute("aria-checked", "false")
    expect(page.get_by_role("switch", name="Use Sandbox")).to_be_focused()
    with page.expect_response("**/toggle/"):
        page.keyboard.press("Space")
    expect(page.get_by_role("switch", name="Use Sandbox")).to_have_attribute("aria-checked", "true")
    page.goto("/agents/")
    tab_to(page, "Start a conversation")
    page.keyboard.press("Enter")
    page.wait_for_url("**/conversations/**")
    page.keyboard.type("what is 6 * 7?")
    page.keyboard.press("Enter")
    expect(page.locator(".turn-answer")).to_contain_text("42")


def test_a_key_is_removed_and_brought_back_by_keyboard(
    alices_page: Page, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "UNDO_S", 300)
    services.credential_save(user=alice, provider="sandbox", api_key=KEY)
    page = alices_page
    page.goto("/settings/llm/sandbox/")
    tab_to(page, "Remove key…")
    page.keyboard.press("Enter")
    sure = page.get_by_role("button", name="Remove the Sandbox key ending 4f2a")
    expect(sure).to_be_visible()
    tab_to(page, "Remove the Sandbox key ending 4f2a")
    page.keyboard.press("Enter")
    expect(sure).not_to_be_visible()
    assert not UserCredential.objects.exists()
    tab_to(page, "Undo the removal of the Sandbox key ending 4f2a")
    page.keyboard.press("Enter")
    expect(page.get_by_role("switch", name="Use Sandbox")).to_be_visible()
    assert UserCredential.objects.exists()


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the element of this name has the focus."""
    named = """() => { const e = document.activeElement; const by = e.getAttribute('aria-labelledby');
        return (e.getAttribute('aria-label') || (by && document.getElementById(by)?.innerText) || e.textContent)
            .replace(/\\s+/g, ' ').trim() }"""
    seen = []
    for _ in range(80):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(named))
        if seen[-1] == name:
            return
    raise AssertionError(f"no Tab leads to {name!r}: {seen}")


def test_no_key_stays_in_the_browser(alices_page: Page) -> None:
    card = save_key(alices_page, KEY)
    expect(card).to_contain_text("Key accepted")
    alices_page.goto("/agents/")
    alices_page.go_back()
    stores = alices_page.evaluate(
        "() => JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage), history.state])"
    )
    assert "CANARY" not in stores
    assert "htmx-history" not in stores
    assert "CANARY" not in alices_page.content()
    values = alices_page.evaluate("() => [...document.querySelectorAll('input')].map(input => input.value)")
    assert "CANARY" not in json.dumps(values)


def test_without_javascript_everything_works(
    new_context: Callable[..., BrowserContext], alice: User, site: str
) -> None:
    context = new_context(java_script_enabled=False)
    log_in(context, alice, site)
    page = context.new_page()
    card = open_card(page)
    card.get_by_label("Key", exact=True).fill(KEY)
    card.get_by_label("Model", exact=True).fill("sandbox-instant")
    card.get_by_role("button", name="Save", exact=True).last.click()
    wait_until(lambda: UserCredential.objects.get().status == "valid", "the test to end")
    page.goto("/settings/llm/")
    expect(page.locator("#card-sandbox-default")).to_contain_text("Valid")
    page.goto("/agents/")
    page.get_by_role("button", name="Start a conversation").first.click()
    ask(page, "what is 6 * 7?")
    expect(page.locator(".turn-answer").last).to_contain_text("42")
    page.goto("/settings/llm/")
    page.get_by_role("switch", name="Use Sandbox").click()
    expect(page.get_by_role("switch", name="Use Sandbox")).to_have_attribute("aria-checked", "false")


def test_a_background_run_ends_on_its_page(alices_page: Page, alice: User, look: Callable[[Page, str], None]) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=KEY, model="sandbox-instant")
    alices_page.goto("/runs/")
    alices_page.get_by_role("textbox").first.fill("what is 6 * 7?")
    alices_page.get_by_role("button", name="Run").first.click()
    alices_page.wait_for_url("**/runs/*/")
    expect(alices_page.locator("main")).to_contain_text("42")
    look(alices_page, "run")
