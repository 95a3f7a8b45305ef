"""Messages sent, stopped and asked for again."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from agents import services
from agents.models import Conversation, MessageState, StoredMessage
from agents.tests.factories import ConversationFactory
from agents.tests.reading import HTMX, finished


@pytest.fixture
def conversation(alice: User) -> Conversation:
    return services.conversation_start(user=alice, agent="conversation", text="Hello <b>secret</b>")


@pytest.fixture
def answer(conversation: Conversation) -> StoredMessage:
    return conversation.messages.get(role="assistant")


# Messages


def test_message_with_htmx_gives_its_turn(browser: Client, alice: User) -> None:
    conversation = ConversationFactory(user=alice, title="")
    response = browser.post(
        reverse("agents:message-create", args=[conversation.pk]), {"text": "Hello", "choice": ""}, **HTMX
    )
    html = response.content.decode()
    answer = conversation.messages.get(role="assistant")
    assert response.status_code == 200
    assert "<html" not in html
    assert f'data-stream="/messages/{answer.pk}/stream/"' in html
    assert 'hx-swap-oob="true">Hello</h1>' in html


@pytest.mark.parametrize(("text", "words"), [("", "Write a message first."), ("x" * 1_000_000, "at most 100,000 fit")])
def test_message_that_cannot_be_sent_says_why_and_stays(browser: Client, alice: User, text: str, words: str) -> None:
    conversation = ConversationFactory(user=alice)
    url = reverse("agents:message-create", args=[conversation.pk])
    plain = browser.post(url, {"text": text})
    assert plain.status_code == 422
    assert words in plain.content.decode()
    assert text[:100] in plain.content.decode()
    fragment = browser.post(url, {"text": text}, **HTMX)
    assert fragment.status_code == 422
    assert fragment["HX-Retarget"] == "#composer-errors"
    assert words in fragment.content.decode()
    assert "<html" not in fragment.content.decode()
    assert not conversation.messages.exists()


@pytest.mark.parametrize("choice", ["nosuch:model", "openai:a b", "openai:" + "x" * 300])
def test_message_with_an_impossible_choice_is_refused(browser: Client, alice: User, choice: str) -> None:
    conversation = ConversationFactory(user=alice)
    url = reverse("agents:message-create", args=[conversation.pk])
    assert browser.post(url, {"text": "Hello", "choice": choice}).status_code == 422
    assert not conversation.messages.exists()


def test_message_during_an_answer_waits_and_keeps_the_text(browser: Client, conversation: Conversation) -> None:
    url = reverse("agents:message-create", args=[conversation.pk])
    for how in ({}, HTMX):
        response = browser.post(url, {"text": "And another thing"}, **how)
        assert response.status_code == 409
        assert "still being written" in response.content.decode()
    assert conversation.messages.count() == 2


def test_message_stop_answers_htmx_with_nothing_and_others_with_the_page(
    browser: Client, conversation: Conversation, answer: StoredMessage
) -> None:
    url = reverse("agents:message-stop", args=[answer.pk])
    assert browser.post(url, **HTMX).status_code == 204
    assert browser.post(url)["Location"] == conversation.get_absolute_url()
    answer.refresh_from_db()
    assert answer.state == MessageState.STOPPED


def test_message_retry_with_htmx_gives_the_answer_to_wait_for(
    browser: Client, conversation: Conversation, answer: StoredMessage
) -> None:
    finished(answer, state=MessageState.STOPPED)
    response = browser.post(reverse("agents:message-retry", args=[answer.pk]), **HTMX)
    assert response.status_code == 200
    assert "data-stream" in response.content.decode()
    assert "turn-user" not in response.content.decode()


def test_message_retry_of_a_whole_answer_is_refused(browser: Client, answer: StoredMessage) -> None:
    finished(answer)
    url = reverse("agents:message-retry", args=[answer.pk])
    assert browser.post(url).status_code == 422
    assert browser.post(url, **HTMX).status_code == 422
