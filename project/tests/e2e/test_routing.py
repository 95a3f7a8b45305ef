"""The routing page as a person uses it: with the keyboard, with the mouse, and without scripts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page, Route

from llm_credentials import services
from llm_credentials.models import TaskOverride
from project.tests.e2e.conftest import log_in

PLACE = "/settings/llm/routing/"


@pytest.fixture
def keys(alice: User, site: str) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key="sbx-good-0123456789")
    for provider, priority in (("openai", 110), ("mistral", 120), ("groq", 130)):
        services.credential_save(user=alice, provider=provider, api_key="sk-e2e-0123456789abcdef", priority=priority)


def test_person_settles_who_answers_what(
    new_context: Callable[..., BrowserContext],
    alice: User,
    keys: None,
    site: str,
    look: Callable[[Page, str], None],
) -> None:
    context = new_context(color_scheme="dark", viewport={"width": 320, "height": 844})
    log_in(context, alice, site)
    page = context.new_page()
    page.goto(PLACE)
    temperature = page.get_by_label("Temperature: Analysis")
    temperature.fill("9")
    page.keyboard.press("Tab")
    page.locator("#task-analysis-temperature-errors .error").wait_for()
    assert temperature.input_value() == "9"
    temperature.fill("0.4")
    page.keyboard.press("Tab")
    page.locator("#task-analysis-state svg").wait_for()
    page.locator("#task-code-choice").select_option(label="Mistral")
    page.locator("#chain-code .tile.is-active", has_text="Mistral").wait_for()
    page.get_by_label("What if this failed?").select_option(label="Mistral")
    page.locator("#chain-code .is-failing", has_text="Mistral").wait_for()
    page.locator("#chain-code .tile.is-active", has_text="Sandbox").wait_for()
    page.locator("#task-code .why summary").click()
    assert page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    page.get_by_role("button", name="Move OpenAI up").focus()
    with page.expect_response("**/order/"):
        page.keyboard.press("Enter")
    page.locator("#order li:first-child", has_text="OpenAI").wait_for()
    assert page.evaluate("() => document.activeElement.getAttribute('aria-label')") == "Move OpenAI up"
    page.locator("#order li", has_text="Groq").drag_to(page.locator("#order li:first-child"))
    page.locator("#order li:nth-child(-n+2)", has_text="Groq").wait_for()
    page.wait_for_load_state("networkidle")
    drag_while_an_answer_comes(page)
    page.get_by_role("button", name="Reset Code").click()
    page.get_by_role("button", name="Reset Code").wait_for(state="detached")
    look(page, "routing")
    assert [row.task for row in TaskOverride.objects.for_user(alice)] == ["analysis"]


def drag_while_an_answer_comes(page: Page) -> None:
    """The row stays in the hand, and both moves are told."""
    asked: list[Route] = []
    page.route("**/order/", lambda route: route.continue_() if asked else asked.append(route))
    last = page.locator("#order li").last
    page.locator("#order li:nth-child(2) button[value=up]").click()
    handle = last.bounding_box()
    top = page.locator("#order li").first.bounding_box()
    assert handle and top
    page.mouse.move(handle["x"] + 30, handle["y"] + 10)
    page.mouse.down()
    page.mouse.move(top["x"] + 30, top["y"] + 20, steps=5)
    name = page.locator("#order .is-dragged").get_attribute("data-title") or ""
    with page.expect_response("**/order/"):
        asked[0].continue_()
    page.wait_for_function("() => document.querySelector('#order .is-dragged')?.isConnected")
    with page.expect_response("**/order/"):
        page.mouse.move(top["x"] + 30, top["y"] + 5, steps=3)
        page.mouse.up()
    page.locator("#order li:first-child", has_text=name).wait_for()


def test_page_works_without_scripts(
    new_context: Callable[..., BrowserContext], alice: User, keys: None, site: str
) -> None:
    context = new_context(java_script_enabled=False)
    log_in(context, alice, site)
    page = context.new_page()
    page.goto(PLACE)
    page.locator("#task-code-model").fill("gpt-5")
    page.get_by_role("button", name="Save Code").click()
    assert page.locator("#task-code-model").input_value() == "gpt-5"
    page.get_by_role("button", name="Move OpenAI up").click()
    assert "OpenAI" in page.locator("#order li").first.inner_text()
    page.get_by_label("What if this failed?").select_option(label="OpenAI")
    page.get_by_role("button", name="Show").click()
    assert page.locator("#chain-code .is-failing").count() == 1
