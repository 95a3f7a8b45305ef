"""Answers over a real server, a real provider beside it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session

from agents import services
from agents.models import MessageState, StoredMessage
from agents.tests.live import SandboxJournal, Visitor, sandbox_key
from agents.watching import CHANNEL
from llm_credentials.models import UsageRecord
from project.tests.servers import wait_until


@pytest.fixture
def visitor(live_site: str, alice: User, journal: SandboxJournal) -> Iterator[Visitor]:
    yield Visitor.of(live_site, alice)


def ask(user: User, text: str = "What is 17 * 23?") -> StoredMessage:
    conversation = services.conversation_start(user=user, agent="conversation", text=text)
    return conversation.messages.get(role="assistant")


def stream_path(answer: StoredMessage) -> str:
    return f"/messages/{answer.pk}/stream/"


def state_of(answer: StoredMessage) -> str:
    return StoredMessage.objects.values_list("state", flat=True).get(pk=answer.pk)


def wait_for_state(answer: StoredMessage, state: MessageState, limit_s: float = 30) -> None:
    wait_until(lambda: state_of(answer) == state, f"the answer to be {state}", limit_s)


def test_stream_shows_the_answer_as_it_comes_and_then_whole(
    visitor: Visitor, alice: User, journal: SandboxJournal
) -> None:
    sandbox_key(alice, model="sandbox-chat~delay=20")
    answer = ask(alice, "show me markdown")
    stream = visitor.read(stream_path(answer))
    assert stream.status == 200
    assert stream.answer.headers["Content-Type"] == "text/event-stream"
    assert stream.answer.headers["Cache-Control"] == "no-store"
    assert stream.answer.headers["X-Accel-Buffering"] == "no"
    stream.until_text("<")
    assert state_of(answer) == MessageState.STREAMING, "text came before the answer was finished"
    events = stream.rest()
    assert len([kind for kind, _ in events if kind == "text"]) > 3
    kind, data = events[-1]
    assert (kind, data["state"]) == ("done", "complete")
    assert '<div class="highlight"' in data["html"]
    assert "Sandbox" in data["html"]
    assert "your key" in data["html"]
    answer.refresh_from_db()
    assert answer.receipt is not None
    assert answer.receipt["provider"] == "sandbox"
    assert answer.receipt["attempts"][0]["outcome"] == "ok"
    assert answer.receipt["usage"]["output_tokens"] > 10
    assert answer.claim is not None
    assert [chat["client_gone"] for chat in journal.chats()] == [False]


def test_stream_stop_ends_the_call_upstream(visitor: Visitor, alice: User, journal: SandboxJournal) -> None:
    sandbox_key(alice)
    answer = ask(alice, "count to 500")
    stream = visitor.read(stream_path(answer))
    stream.until_text("10")
    assert visitor.post(f"/messages/{answer.pk}/stop/", htmx=True)[0] == 204
    journal.wait_gone()
    kind, data = stream.last()
    assert (kind, data["state"]) == ("done", "stopped")
    assert "Stopped here." in data["html"]
    assert "(estimated)" in data["html"]
    answer.refresh_from_db()
    assert "10" in answer.text
    row = UsageRecord.objects.get(user=alice)
    assert answer.receipt is not None
    assert (answer.receipt["provider"], answer.receipt["key_owner"]) == ("sandbox", "user")
    assert (answer.receipt["estimated"], answer.receipt["attempts"][0]["outcome"]) == (True, "cancelled")
    assert (row.state, row.outcome) == ("estimated", "cancelled")
    assert answer.receipt["usage"]["output_tokens"] == row.output_tokens
    assert Decimal(answer.receipt["cost_usd"]) == row.cost_usd


@pytest.mark.parametrize("channel", ["published", "noted in the row only"])
def test_stream_stop_reaches_it_from_another_process(
    visitor: Visitor, alice: User, journal: SandboxJournal, channel: str, settings: Any
) -> None:
    sandbox_key(alice)
    answer = ask(alice, "count to 500")
    stream = visitor.read(stream_path(answer))
    stream.until_text("10")
    if channel == "published":
        client = redis.Redis.from_url(settings.REDIS_URL)
        wait_until(lambda: client.publish(CHANNEL, str(answer.pk)), "somebody to listen")
        client.close()
    else:
        services.message_stop(user=alice, message_id=answer.pk)
    journal.wait_gone()
    assert stream.last()[1]["state"] == "stopped"


def test_stream_left_by_its_reader_ends_the_call_and_keeps_the_text(
    visitor: Visitor, alice: User, journal: SandboxJournal
) -> None:
    sandbox_key(alice)
    answer = ask(alice, "count to 500")
    stream = visitor.read(stream_path(answer))
    stream.until_text("10")
    stream.leave()
    journal.wait_gone()
    wait_for_state(answer, MessageState.STOPPED)
    answer.refresh_from_db()
    assert "1, 2, 3" in answer.text or "1 2 3" in answer.text


def test_stream_left_before_the_first_word_ends_the_call(
    visitor: Visitor, alice: User, journal: SandboxJournal
) -> None:
    sandbox_key(alice, model="sandbox-chat~fault=stall-first")
    answer = ask(alice)
    stream = visitor.read(stream_path(answer))
    wait_until(journal.chats, "the call")
    stream.leave()
    journal.wait_gone()
    wait_for_state(answer, MessageState.STOPPED)


def test_stream_opened_again_starts_no_second_call(visitor: Visitor, alice: User, journal: SandboxJournal) -> None:
    sandbox_key(alice, model="sandbox-chat~delay=30")
    answer = ask(alice, "count to 60")
    first = visitor.read(stream_path(answer))
    first.until_text("5")
    second = visitor.read(stream_path(answer))
    second.until_text("6")
    assert first.last()[1]["state"] == "complete"
    assert second.last()[1]["state"] == "complete"
    third = visitor.read(stream_path(answer))
    assert [kind for kind, _ in third.rest()] == ["done"]
    assert len(journal.chats()) == 1


def test_stream_of_another_user_is_not_there(live_site: str, visitor: Visitor, alice: User, bob: User) -> None:
    answer = ask(alice)
    stranger = Visitor.of(live_site, bob)
    assert stranger.read(stream_path(answer)).status == 404
    assert stranger.post(f"/messages/{answer.pk}/stop/")[0] == 404
    assert stranger.post(f"/messages/{answer.pk}/retry/")[0] == 404
    assert state_of(answer) == MessageState.WAITING


def test_stream_without_login_leads_to_the_login(live_site: str, visitor: Visitor, alice: User) -> None:
    answer = ask(alice)
    stream = Visitor(live_site, {}).read(stream_path(answer))
    assert stream.status == 302
    assert "/accounts/login/" in stream.answer.headers["Location"]


def test_stream_of_a_question_is_not_there(visitor: Visitor, alice: User) -> None:
    question = ask(alice).conversation.messages.get(role="user")
    assert visitor.read(f"/messages/{question.pk}/stream/").status == 404


def end_session(visitor: Visitor, user: User) -> None:
    Session.objects.filter(pk=visitor.session_key).delete()


def deactivate(visitor: Visitor, user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)


def change_password(visitor: Visitor, user: User) -> None:
    user.set_password("another-password")
    user.save()


@pytest.mark.parametrize("lose_access", [end_session, deactivate, change_password])
def test_stream_ends_when_its_reader_may_no_longer_see_it(
    visitor: Visitor, alice: User, journal: SandboxJournal, lose_access: Any
) -> None:
    sandbox_key(alice)
    answer = ask(alice, "count to 500")
    stream = visitor.read(stream_path(answer))
    stream.until_text("10")
    lose_access(visitor, alice)
    journal.wait_gone()
    kind, data = stream.last()
    assert (kind, data["class"], data["html"]) == ("error", "SignedOut", "")
    wait_for_state(answer, MessageState.INCOMPLETE)
    answer.refresh_from_db()
    assert answer.error is not None and answer.error["class"] == "AccessWithdrawn"


def test_stream_tells_of_a_refused_key_in_words(visitor: Visitor, alice: User) -> None:
    sandbox_key(alice, key="sbx-bad-0123456789")
    answer = ask(alice)
    kind, data = visitor.read(stream_path(answer)).last()
    assert (kind, data["class"], data["state"]) == ("error", "AuthenticationFailed", "failed")
    assert data["user_message"] == "The provider refused this key. It may be mistyped or revoked."
    assert "Open your keys" in data["html"]
    assert "Ask again" in data["html"]
    assert "sbx-bad" not in str(data)
    answer.refresh_from_db()
    assert answer.receipt is not None
    assert answer.receipt["attempts"][-1]["outcome"] == "AuthenticationFailed"


def test_stream_without_a_key_says_what_to_do(visitor: Visitor, alice: User) -> None:
    answer = ask(alice)
    kind, data = visitor.read(stream_path(answer)).last()
    assert (kind, data["class"]) == ("error", "NotConfigured")
    assert "/settings/llm/" in data["html"]


def test_stream_keeps_what_came_before_it_broke_off(visitor: Visitor, alice: User) -> None:
    sandbox_key(alice, model="sandbox-chat~fault=cut,after=6")
    answer = ask(alice, "count to 50")
    kind, data = visitor.read(stream_path(answer)).last()
    assert (kind, data["class"], data["state"]) == ("error", "StreamInterrupted", "incomplete")
    answer.refresh_from_db()
    assert answer.text
    status, _, _ = visitor.post(f"/messages/{answer.pk}/retry/", htmx=True)
    assert status == 200
    assert state_of(answer) == MessageState.WAITING


def test_stream_carries_the_wait_that_a_provider_asks_for(visitor: Visitor, alice: User) -> None:
    sandbox_key(alice, key="sbx-limited-30-0123456789")
    kind, data = visitor.read(stream_path(ask(alice))).last()
    assert (kind, data["class"], data["retry_after_s"]) == ("error", "RateLimited", 30)
    assert "It asks to wait 30 s." in data["html"]


def test_stream_of_a_removed_conversation_ends(visitor: Visitor, alice: User, journal: SandboxJournal) -> None:
    sandbox_key(alice)
    answer = ask(alice, "count to 500")
    stream = visitor.read(stream_path(answer))
    stream.until_text("10")
    assert visitor.post(f"/conversations/{answer.conversation_id}/delete/")[0] == 302
    journal.wait_gone()
    assert stream.last()[1]["class"] == "Gone"


def test_chat_goes_on_without_valkey(visitor: Visitor, alice: User, journal: SandboxJournal, settings: Any) -> None:
    sandbox_key(alice)
    nowhere = "redis://127.0.0.1:1/0"
    settings.REDIS_URL = nowhere
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": nowhere}}
    answer = ask(alice, "count to 500")
    stream = visitor.read(stream_path(answer))
    stream.until_text("10")
    assert visitor.post(f"/messages/{answer.pk}/stop/", htmx=True)[0] == 204
    journal.wait_gone()
    assert stream.last()[1]["state"] == "stopped"


def test_message_without_javascript_comes_back_answered(visitor: Visitor, alice: User) -> None:
    sandbox_key(alice)
    conversation = services.conversation_start(user=alice, agent="conversation")
    status, location, _ = visitor.post(
        f"/conversations/{conversation.pk}/messages/", text="What is 17 * 23?", choice=""
    )
    answer = conversation.messages.get(role="assistant")
    assert status == 302
    assert location == f"/conversations/{conversation.pk}/#answer-{answer.pk}"
    assert (answer.state, "391" in answer.text) == (MessageState.COMPLETE, True)
    assert "391" in visitor.get(f"/conversations/{conversation.pk}/")[1]


def test_conversation_started_without_javascript_comes_back_answered(visitor: Visitor, alice: User) -> None:
    sandbox_key(alice)
    status, location, _ = visitor.post("/agents/conversation/conversations/", text="What is 17 * 23?", plain="1")
    assert status == 302
    assert "391" in visitor.get(location)[1]


def test_message_remembers_what_was_said(visitor: Visitor, alice: User) -> None:
    sandbox_key(alice)
    conversation = services.conversation_start(user=alice, agent="conversation")
    for text in ("say swordfish", "what did I say?"):
        visitor.post(f"/conversations/{conversation.pk}/messages/", text=text)
    last = conversation.messages.in_order().last()
    assert last is not None
    assert "swordfish" in last.text


def test_message_sent_without_javascript_and_left_ends_the_call(
    visitor: Visitor, alice: User, journal: SandboxJournal
) -> None:
    sandbox_key(alice)
    conversation = services.conversation_start(user=alice, agent="conversation")
    connection = visitor._connect()
    headers = visitor._headers(**{"Content-Type": "application/x-www-form-urlencoded"})
    connection.request("POST", f"/conversations/{conversation.pk}/messages/", "text=count+to+500", headers)
    wait_until(journal.chats, "the call")
    connection.close()
    journal.wait_gone()
    wait_for_state(conversation.messages.get(role="assistant"), MessageState.STOPPED)
