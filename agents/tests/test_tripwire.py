"""A key that somebody pastes to an agent, or that a tool would hand on."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.test import Client

from agents import runs, services
from agents.loop import Done, ToolEnd, run_loop
from agents.models import AgentRun, StoredMessage
from agents.tests.factories import ConversationFactory
from agents.tests.scripted import Answer, ScriptedClient, call
from agents.tools import ToolError, tool
from llm_credentials.factory import client_for, tripwire_for
from llm_credentials.models import UsageRecord
from llm_credentials.providers import LLMMessage, SecretInRequest
from llm_credentials.tests.factories import UserCredentialFactory
from llm_credentials.wall import acting_for
from project import logging as site_logging

KEY = "0f5e9c7a1b3d8e6f4a2c0b9d7e5f3a1c8d6b4f2a"
WORDS = "your own OpenAI key ending in 4f2a"

pytestmark = pytest.mark.django_db


@pytest.fixture
def key(alice: User) -> Any:
    return UserCredentialFactory(user=alice, key=KEY)


# What a user types


def test_message_with_the_own_key_is_refused_in_words_and_not_kept(alice: User, key: Any, client: Client) -> None:
    conversation = ConversationFactory(user=alice)
    client.force_login(alice)
    answer = client.post(
        f"/conversations/{conversation.pk}/messages/", {"text": f"Is {KEY} right?"}, headers={"HX-Request": "true"}
    )
    assert answer.status_code == 422
    assert f"Your message contains {WORDS}; it was not sent." in answer.content.decode()
    assert KEY not in answer.content.decode()
    assert not StoredMessage.objects.exists()


def test_message_without_script_keeps_what_was_typed(alice: User, key: Any, client: Client) -> None:
    conversation = ConversationFactory(user=alice)
    client.force_login(alice)
    answer = client.post(f"/conversations/{conversation.pk}/messages/", {"text": f"Is {KEY} right?"})
    assert answer.status_code == 422
    assert f"Is {KEY} right?" in answer.content.decode(), "only who typed it sees it, in the box where it can be mended"


def test_run_and_first_message_with_the_own_key_are_refused(alice: User, key: Any) -> None:
    with pytest.raises(ValidationError, match="ending in 4f2a"):
        runs.run_create(user=alice, agent="conversation", text=KEY)
    with pytest.raises(ValidationError, match="ending in 4f2a"):
        services.conversation_start(user=alice, agent="conversation", text=KEY)
    assert not AgentRun.objects.exists()


def test_message_with_somebody_elses_key_is_not_told_apart(alice: User, bob: User, key: Any) -> None:
    conversation = ConversationFactory(user=bob)
    services.message_send(user=bob, conversation_id=conversation.pk, text=KEY)


# What leaves


@pytest.mark.django_db(transaction=True)
def test_call_with_the_own_key_never_leaves(alice: User, key: Any) -> None:
    with pytest.raises(SecretInRequest, match="ending in 4f2a") as caught:
        async_to_sync(client_for(alice).complete)([LLMMessage.system("Be brief."), LLMMessage.user(f"x={KEY}")])
    assert caught.value.receipt.attempts == []
    assert not UsageRecord.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_stream_and_embedding_with_the_own_key_never_leave(alice: User, key: Any) -> None:
    async def streamed() -> None:
        async for _ in client_for(alice).stream([LLMMessage.user(KEY)]):
            pass

    with pytest.raises(SecretInRequest):
        async_to_sync(streamed)()
    with pytest.raises(SecretInRequest):
        async_to_sync(client_for(alice).embed)(["harmless", KEY])
    assert not UsageRecord.objects.exists()


# Tools

called: list[str] = []


@tool
async def environment(name: str) -> str:
    """Read a variable."""
    called.append(name)
    if name == "broken":
        raise ToolError(f"cannot read {KEY}")
    return f"{name}={KEY}; PATH=/bin"


def _loop(alice: User, name: str) -> list[Any]:
    guard = tripwire_for(alice)
    model = ScriptedClient(Answer(calls=[call("environment", name=name)]), "done")

    async def go() -> list[Any]:
        return [event async for event in run_loop(model, [LLMMessage.user("go")], tools=[environment], guard=guard)]

    return asyncio.run(go())


@pytest.mark.parametrize("name", ["HOME", "broken"])
def test_tool_result_with_the_key_is_redacted(alice: User, key: Any, name: str) -> None:
    events = _loop(alice, name)
    result = next(event.result for event in events if isinstance(event, ToolEnd))
    assert KEY not in result.content
    assert f"[{WORDS} was removed here]" in result.content
    assert KEY not in repr(next(event for event in events if isinstance(event, Done)).messages)


def test_tool_is_not_called_with_the_key(alice: User, key: Any) -> None:
    called.clear()
    events = _loop(alice, f"curl {KEY}")
    result = next(event.result for event in events if isinstance(event, ToolEnd))
    assert result.is_error
    assert f"The arguments contain {WORDS}; the tool was not called." in result.content
    assert called == []


# Logs


def test_log_line_of_a_user_is_written_without_their_key(alice: User, key: Any, live_as_in_production: None) -> None:
    """No word of it says that this is a key, and it has no beginning by which one is known."""
    line = logging.LogRecord("x", logging.INFO, __file__, 1, "the server said: %s", (f"value {KEY} unknown",), None)
    formatter = site_logging.formatter("json")
    assert KEY in formatter.format(line)
    with acting_for(alice.pk):
        from llm_credentials.routing import snapshot_cache

        snapshot_cache._kept[alice.pk] = snapshot_cache._Kept(snapshot_cache.load(alice), 0.0, 0.0)
        written = formatter.format(line)
    assert KEY not in written
    assert WORDS in written
