"""Answers side by side, questions put differently, answers gone on with: nothing lost, nothing doubled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import connection

from agents import answering, branching, services
from agents.models import Conversation, MessageState, StoredMessage
from agents.receipts import site_error
from agents.services import ConversationBusy
from agents.tests.live import SandboxJournal, sandbox_key
from agents.turns import conversation_turns, shown_turns
from llm_credentials.providers import LLMMessage, ToolCall, ToolResult

pytestmark = pytest.mark.django_db


@pytest.fixture
def conversation(alice: User) -> Conversation:
    return services.conversation_start(user=alice, agent="conversation", text="What is a haiku?")


@pytest.fixture
def answer(conversation: Conversation) -> StoredMessage:
    return ended(conversation.messages.get(role="assistant"))


def ended(
    answer: StoredMessage, text: str = "A poem.", state: MessageState = MessageState.COMPLETE, **more: Any
) -> StoredMessage:
    claim = services.message_claim(answer.pk)
    assert claim
    more.setdefault("messages", (LLMMessage.assistant(text),))
    assert services.message_finish(answer.pk, claim, state=state, **more)
    answer.refresh_from_db()
    return answer


def beside(user: User, answer: StoredMessage) -> StoredMessage:
    return branching.answer_beside(user=user, message_id=answer.pk, provider="anthropic", model="claude-x")


def said(conversation: Conversation) -> list[str]:
    return [message.text for message in services.whole_messages(conversation)]


def refused(work: Callable[[], Any]) -> str:
    with pytest.raises(ValidationError) as refusal:
        work()
    return str(refusal.value.messages[0])


def test_two_answers_stand_side_by_side_until_one_is_chosen(
    alice: User, conversation: Conversation, answer: StoredMessage
) -> None:
    other = beside(alice, answer)
    assert (other.state, other.choice, other.is_aside) == ("waiting", ("anthropic", "claude-x"), True)
    with pytest.raises(ConversationBusy):
        beside(alice, answer)
    calls = LLMMessage(role="assistant", parts=(ToolCall(id="1", name="look", arguments={}),))
    results = LLMMessage.tool([ToolResult(call_id="1", name="look", content="seen")])
    ended(other, messages=(calls, results, LLMMessage.assistant("Three lines.")))
    (turn,) = shown_turns(conversation.messages.in_order())
    assert [len(one.steps) for one in turn.shown] == [0, 1]
    assert said(conversation) == ["What is a haiku?", "A poem."]
    branching.answer_choose(user=alice, message_id=other.pk)
    assert said(conversation) == ["What is a haiku?", "", "", "Three lines."]
    services.message_send(user=alice, conversation_id=conversation.pk, text="Thanks")
    first, _ = shown_turns(conversation.messages.in_order())
    assert [one.answer.text for one in first.shown] == ["Three lines."]
    assert [one.answer.text for one in first.folded] == ["A poem."]
    assert "has gone on since" in refused(lambda: branching.answer_choose(user=alice, message_id=answer.pk))


def test_answers_side_by_side_are_few(alice: User, answer: StoredMessage) -> None:
    for _ in range(branching.MAX_ANSWERS - 1):
        ended(beside(alice, answer))
    assert "4 answers" in refused(lambda: beside(alice, answer))


def test_changed_question_sets_aside_what_followed(
    alice: User, conversation: Conversation, answer: StoredMessage
) -> None:
    later = services.message_send(user=alice, conversation_id=conversation.pk, text="And a sonnet?")
    question = conversation.messages.get(position=0)
    with pytest.raises(ConversationBusy):
        branching.question_edit(user=alice, message_id=question.pk, text="What is a tanka?")
    ended(later.answer, "Longer.")
    turn = branching.question_edit(user=alice, message_id=question.pk, text="What is a tanka?")
    ended(turn.answer, "Five lines.")
    assert said(conversation) == ["What is a tanka?", "Five lines."]
    (shown,), _ = conversation_turns(conversation)
    assert shown.question == turn.question
    assert "Go back to it first" in refused(
        lambda: branching.question_edit(user=alice, message_id=question.pk, text="Once more")
    )


def test_changed_question_that_is_refused_changes_nothing(
    alice: User, conversation: Conversation, answer: StoredMessage
) -> None:
    question = conversation.messages.get(position=0)
    for bad in ("", " \n", "x" * (services.MAX_MESSAGE_CHARS + 1)):
        refused(lambda text=bad: branching.question_edit(user=alice, message_id=question.pk, text=text))  # type: ignore[misc]
    assert said(conversation) == ["What is a haiku?", "A poem."]


def test_changed_question_forgets_a_summary_of_what_is_set_aside(
    alice: User, conversation: Conversation, answer: StoredMessage
) -> None:
    Conversation.objects.filter(pk=conversation.pk).update(summary="It was about haiku.", summary_until=1000)
    question = conversation.messages.get(position=0)
    branching.question_edit(user=alice, message_id=question.pk, text="What is a tanka?")
    conversation.refresh_from_db()
    assert (conversation.summary, conversation.summary_until) == ("", None)


@pytest.mark.parametrize("state", [MessageState.INCOMPLETE, MessageState.STOPPED])
def test_broken_answer_waits_with_what_it_has(alice: User, conversation: Conversation, state: MessageState) -> None:
    answer = ended(conversation.messages.get(role="assistant"), "One, two", state, receipt={"attempts": [1]})
    again = branching.answer_continue(user=alice, message_id=answer.pk, provider="groq", model="m")
    assert (again.state, again.text, again.begun, again.choice) == ("waiting", "One, two", "One, two", ("groq", "m"))
    services.message_stop(user=alice, message_id=again.pk)
    again.refresh_from_db()
    assert (again.state, again.text) == ("stopped", "One, two")


def test_whole_or_empty_answer_cannot_be_gone_on_with(alice: User, conversation: Conversation) -> None:
    answer = ended(conversation.messages.get(role="assistant"), "", MessageState.FAILED, error=site_error("X", "x"))
    assert "whole" in refused(lambda: branching.answer_continue(user=alice, message_id=answer.pk))
    services.message_retry(user=alice, message_id=answer.pk)
    ended(answer)
    assert "whole" in refused(lambda: branching.answer_continue(user=alice, message_id=answer.pk))
    StoredMessage.objects.filter(pk=answer.pk).update(receipt={"finish_reason": "length"})
    assert branching.answer_continue(user=alice, message_id=answer.pk).begun == "A poem."


def test_question_is_no_answer(alice: User, conversation: Conversation, answer: StoredMessage) -> None:
    question = conversation.messages.get(position=0)
    for work in (branching.answer_choose, branching.answer_continue):
        assert "no answer" in refused(lambda: work(user=alice, message_id=question.pk))  # noqa: B023


def test_strangers_messages_are_not_there(bob: User, answer: StoredMessage) -> None:
    key: UUID = answer.pk
    for work in (
        lambda: branching.answer_choose(user=bob, message_id=key),
        lambda: branching.answer_continue(user=bob, message_id=key),
        lambda: branching.answer_beside(user=bob, message_id=key, provider="", model=""),
        lambda: branching.question_edit(user=bob, message_id=key, text="Hello"),
    ):
        with pytest.raises(StoredMessage.DoesNotExist):
            work()


@pytest.mark.django_db(transaction=True)
def test_cut_answer_is_gone_on_with_by_another_model(alice: User, journal: SandboxJournal) -> None:
    """The model is told what it had said, and both halves are one answer with one receipt."""
    sandbox_key(alice, model="sandbox-instant")
    conversation = services.conversation_start(user=alice, agent="conversation", text="what is 17 * 23?")
    half = "The result of it " * 300
    answer = ended(conversation.messages.get(role="assistant"), half, MessageState.INCOMPLETE)
    again = branching.answer_continue(user=alice, message_id=answer.pk, provider="sandbox", model="sandbox-fast")
    async_to_sync(answering.finish_answer)(again.pk)
    again.refresh_from_db()
    assert (again.state, again.receipt["model"]) == ("complete", "sandbox-fast")
    assert again.text.startswith(half)
    assert len(again.text) > len(half)
    (asked,) = journal.chats()
    assert asked["prompt_tokens"] > 900
    assert not again.begun


@pytest.mark.django_db(transaction=True)
def test_going_on_that_fails_keeps_the_first_half(alice: User, journal: SandboxJournal) -> None:
    sandbox_key(alice, key="sbx-bad-0123456789")
    conversation = services.conversation_start(user=alice, agent="conversation", text="Count")
    answer = ended(conversation.messages.get(role="assistant"), "One, two", MessageState.INCOMPLETE)
    branching.answer_continue(user=alice, message_id=answer.pk)
    async_to_sync(answering.finish_answer)(answer.pk)
    answer.refresh_from_db()
    assert (answer.state, answer.text) == ("incomplete", "One, two")
    assert answer.error["class"]


@pytest.mark.django_db(transaction=True)
def test_of_two_tabs_at_once_one_asks_and_the_other_is_told(alice: User) -> None:
    """A message, an answer beside and a changed question, all at the same moment: one answer is written."""
    conversation = services.conversation_start(user=alice, agent="conversation", text="What is a haiku?")
    answer = ended(conversation.messages.get(role="assistant"))
    together = threading.Barrier(3)

    def asked(work: Callable[[], Any]) -> bool:
        together.wait(timeout=20)
        try:
            work()
        except (ConversationBusy, ValidationError):
            return False
        finally:
            connection.close()
        return True

    works = (
        lambda: services.message_send(user=alice, conversation_id=conversation.pk, text="Thanks"),
        lambda: beside(alice, answer),
        lambda: branching.question_edit(user=alice, message_id=answer.pk, text="What is a tanka?"),
    )
    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(asked, works)) == [False, False, True]
    assert conversation.messages.open().count() == 1
