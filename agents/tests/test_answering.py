"""How an answer's row ends, whichever way its writing does."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User

from agents import answering, services
from agents.catalog.conversation import ConversationAgent
from agents.loop import Limits
from agents.models import Conversation, MessageState, StoredMessage
from agents.tests.scripted import Answer, ScriptedClient, call
from agents.tools import tool
from llm_credentials.providers import RateLimited, StreamInterrupted


@pytest.fixture
def answer(alice: User) -> StoredMessage:
    conversation = services.conversation_start(user=alice, agent="conversation", text="Hello")
    return conversation.messages.get(role="assistant")


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets the agent's client follow a script."""

    def script(*answers: Answer | str) -> ScriptedClient:
        client = ScriptedClient(*answers)
        monkeypatch.setattr(ConversationAgent, "_routed_client", lambda self: client)
        return client

    return script


def write(answer: StoredMessage) -> StoredMessage:
    async_to_sync(answering.finish_answer)(answer.pk)
    answer.refresh_from_db()
    return answer


def test_answer_is_written_once(answer: StoredMessage, says: Any) -> None:
    client = says("Hi.", "Never asked.")
    assert (write(answer).state, answer.text) == (MessageState.COMPLETE, "Hi.")
    assert write(answer).text == "Hi."
    assert len(client.asked) == 1


def test_answer_that_breaks_off_keeps_its_text(answer: StoredMessage, says: Any) -> None:
    says(Answer(text=["Half an"], error=StreamInterrupted()))
    assert (write(answer).state, answer.text) == (MessageState.INCOMPLETE, "Half an")
    assert answer.error is not None
    assert answer.error["class"] == "StreamInterrupted"


def test_answer_that_fails_says_why(answer: StoredMessage, says: Any) -> None:
    says(Answer(error=RateLimited(provider="openai", retry_after_s=3)))
    assert write(answer).state == MessageState.FAILED
    assert answer.error is not None
    assert (answer.error["provider"], answer.error["retry_after_s"], answer.error["retryable"]) == ("openai", 3, True)


def test_answer_survives_a_fault_of_this_site_without_its_text(answer: StoredMessage, says: Any) -> None:
    says(Answer(text=["So far"], error=ZeroDivisionError("sk-secret")))
    assert (write(answer).state, answer.text) == (MessageState.INCOMPLETE, "So far")
    assert "sk-secret" not in str(answer.error)
    assert answer.error is not None
    assert answer.error["class"] == "InternalError"


def test_answer_left_by_its_reader_is_stopped(answer: StoredMessage, says: Any) -> None:
    client = says(Answer(text=["one ", "two "], hangs=True))

    async def leave_early(message_id: UUID) -> None:
        async with aclosing(answering.write_answer(message_id)) as events:
            await anext(events)

    async_to_sync(leave_early)(answer.pk)
    answer.refresh_from_db()
    assert (answer.state, answer.text) == (MessageState.STOPPED, "one")
    assert client.closed == 1


def test_answer_at_its_limit_is_incomplete(answer: StoredMessage, says: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConversationAgent, "limits", Limits(max_seconds=0.05))
    says(Answer(text=["So far"], hangs=True))
    assert (write(answer).state, answer.text) == (MessageState.INCOMPLETE, "So far")
    assert answer.error is not None
    assert answer.error["class"] == "LimitReached"


def test_answer_of_a_removed_conversation_hurts_nobody(answer: StoredMessage, says: Any) -> None:
    client = says(Answer(text=["one ", "two "]))

    async def remove_meanwhile(message_id: UUID) -> None:
        async with aclosing(answering.write_answer(message_id)) as events:
            await anext(events)
            await Conversation.objects.all().adelete()
            async for _ in events:
                pass

    async_to_sync(remove_meanwhile)(answer.pk)
    assert not StoredMessage.objects.exists()
    assert client.closed == 1


def test_answer_of_an_agent_that_is_gone_says_so(answer: StoredMessage) -> None:
    Conversation.objects.update(agent="retired")
    assert write(answer).state == MessageState.FAILED


@tool
async def add(a: int, b: int) -> str:
    """Add two whole numbers."""
    return str(a + b)


def test_answer_with_tools_is_sent_back_as_it_was(
    answer: StoredMessage, says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ConversationAgent, "tools", (add,))
    client = says(Answer(text=["Let me see."], calls=[call("add", a=1, b=1)]), "Two.", "Still two.")
    assert write(answer).text == "Two."
    turn = services.message_send(
        user=answer.conversation.user, conversation_id=answer.conversation_id, text="Are you sure?"
    )
    write(turn.answer)
    assert [message.role for message in client.asked[-1]] == [
        *("system", "user", "assistant", "tool", "assistant", "user"),
    ]
    assert client.asked[-1][2].tool_calls[0].arguments == {"a": 1, "b": 1}


def test_answer_stopped_among_tools_leaves_no_call_without_result(
    answer: StoredMessage, says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ConversationAgent, "tools", (add,))
    says(Answer(text=["Let me see."], calls=[call("add", a=1, b=1)]), Answer(text=["Tw"], error=StreamInterrupted()))
    write(answer)
    assert answer.text == "Let me see.\n\nTw"
    assert answer.conversation.messages.count() == 2
