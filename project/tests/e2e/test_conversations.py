"""Conversations as people hold them: files, drafts, answers side by side, changed questions, search."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from PIL import Image
from playwright.sync_api import Page, expect

from agents import services as agents
from agents.models import MessageState
from agents.tests.test_branching import ended
from llm_credentials import services

pytestmark = pytest.mark.django_db(transaction=True)


def key(user: User, model: str = "sandbox-instant", name: str = "default") -> None:
    services.credential_save(user=user, provider="sandbox", name=name, api_key=f"sbx-good-{name}-4f2a", model=model)


def ask(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("button", name="Send").click()


def test_answers_stand_side_by_side_and_a_question_is_asked_again(
    alices_page: Page, alice: User, look: Callable[[Page, str], None]
) -> None:
    key(alice)
    conversation = agents.conversation_start(user=alice, agent="conversation")
    page = alices_page
    page.goto(conversation.get_absolute_url())
    ask(page, "what is 17 * 23?")
    expect(page.locator(".turn-answer")).to_contain_text("391")
    page.get_by_text("Another answer").click()
    page.locator(".again select").select_option(index=1)
    page.get_by_role("button", name="Answer beside this one").click()
    expect(page.locator(".beside .turn-answer .receipt")).to_have_count(2)
    look(page, "conversation-beside")
    page.get_by_role("button", name="Go on with this").click()
    expect(page.locator(".beside .turn-answer").nth(1)).to_have_class(re.compile("is-chosen"))
    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Change your message").fill("what is 2 + 2?")
    look(page, "conversation-edit")
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator("#turns > .exchange .turn-answer").last).to_contain_text("2 + 2 = 4")
    expect(page.locator(".turn-answer [aria-label=Stop]")).to_have_count(0)
    look(page, "conversation-versions")
    page.get_by_role("button", name="Previous version").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#turns .turn-answer.is-chosen")).to_contain_text("391")
    expect(page.get_by_role("group", name="Versions of this message")).to_contain_text("1 of 2")
    expect(page.get_by_role("button", name="Previous version")).to_be_focused()


def test_picture_and_draft_survive_and_go_along(
    alices_page: Page, alice: User, look: Callable[[Page, str], None]
) -> None:
    key(alice, "sandbox-vision")
    page = alices_page
    page.goto(agents.conversation_start(user=alice, agent="conversation").get_absolute_url())
    page.get_by_role("textbox", name="Message").fill("What is in this")
    page.reload()
    expect(page.get_by_role("textbox", name="Message")).to_have_value("What is in this")
    out = io.BytesIO()
    Image.new("RGB", (320, 200), "teal").save(out, "PNG")
    files = [
        {"name": "beach.png", "mimeType": "image/png", "buffer": out.getvalue()},
        {"name": "page.exe", "mimeType": "image/png", "buffer": b"\x7fELF" + b"\0" * 40},
    ]
    page.get_by_label("Attach files").set_input_files(files)
    expect(page.locator(".composer .attachment")).to_contain_text("beach.png")
    expect(page.locator(".attachment-errors")).to_contain_text("page.exe: This kind of file")
    look(page, "conversation-composer")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn-answer .receipt")).to_be_visible()
    expect(page.get_by_role("img", name="beach.png")).to_be_visible()
    expect(page.locator(".composer .attachment")).to_have_count(0)
    page.reload()
    expect(page.get_by_role("textbox", name="Message")).to_have_value("")


def test_stopped_answer_is_gone_on_with(alices_page: Page, alice: User, look: Callable[[Page, str], None]) -> None:
    key(alice)
    conversation = agents.conversation_start(user=alice, agent="conversation", text="Count to three")
    ended(conversation.messages.get(role="assistant"), "One, two", MessageState.STOPPED)
    page = alices_page
    page.goto(conversation.get_absolute_url())
    look(page, "conversation-stopped")
    page.get_by_role("button", name="Continue").click()
    answer = page.locator(".turn-answer")
    expect(answer.locator(".receipt")).to_be_visible()
    expect(answer).to_contain_text("One, two")


def test_found_by_its_words_and_renamed(alices_page: Page, alice: User, look: Callable[[Page, str], None]) -> None:
    conversation = agents.conversation_start(user=alice, agent="conversation", text="Plan a trip to Lisbon")
    ended(conversation.messages.get(role="assistant"), "Take the tram to Belém in the morning.")
    page = alices_page
    page.goto("/conversations/")
    page.get_by_label("Search your conversations").fill("BELÉM tram")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("mark")).to_have_text("Belém")
    look(page, "conversations-found")
    page.get_by_role("link", name="Plan a trip").click()
    page.get_by_text("This conversation").or_(page.locator(".chat-menu > summary")).first.click()
    look(page, "conversation-menu")
    page.get_by_label("Title").fill("Lisbon in May")
    page.get_by_role("button", name="Rename").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Lisbon in May")
    with page.expect_download() as download:
        page.locator(".chat-menu > summary").click()
        page.get_by_role("link", name="Download as Markdown").click()
    assert download.value.suggested_filename == "lisbon-in-may.md"
