from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ValidationError
from django.utils import timezone

from agents import runs, services
from agents.models import AgentRun, Conversation, MessageState, RunState, StoredMessage
from agents.tests.factories import AgentRunFactory, ConversationFactory
from llm_credentials.providers import LLMMessage, TextPart, ToolCall, ToolResult

LONG_AGO = timedelta(hours=1)


def sent(user: User, text: str = "Hello") -> services.Turn:
    conversation = services.conversation_start(user=user, agent="conversation")
    return services.message_send(user=user, conversation_id=conversation.pk, text=text)


def claimed(turn: services.Turn) -> Any:
    claim = services.message_claim(turn.answer.pk)
    assert claim is not None
    return claim


def answered(turn: services.Turn, *messages: LLMMessage, state: MessageState = MessageState.COMPLETE) -> StoredMessage:
    messages = messages or (LLMMessage.assistant("Hi."),)
    assert services.message_finish(turn.answer.pk, claimed(turn), state=state, messages=messages)
    turn.answer.refresh_from_db()
    return turn.answer


def errors_of(act: Callable[[], object]) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as caught:
        act()
    return caught.value.message_dict


# Conversations


def test_conversation_start_with_text_asks_its_first_question(alice: User) -> None:
    conversation = services.conversation_start(user=alice, agent="conversation", text="What is a key?")
    assert conversation.title == "What is a key?"
    question, answer = conversation.messages.in_order()
    assert (question.role, question.text) == ("user", "What is a key?")
    assert (answer.role, answer.state) == ("assistant", MessageState.WAITING)


def test_conversation_start_refuses_an_unknown_agent(alice: User) -> None:
    assert errors_of(lambda: services.conversation_start(user=alice, agent="nobody")) == {
        "agent": ["There is no such agent."]
    }


def test_conversation_start_with_a_bad_message_leaves_nothing_behind(alice: User) -> None:
    errors_of(lambda: services.conversation_start(user=alice, agent="conversation", text="  "))
    assert not Conversation.objects.exists()


@pytest.mark.parametrize(
    ("provider", "model", "words"),
    [
        ("nosuch", "", "There is no such provider."),
        ("openai", "..\\admin", "A model id"),
        ("openai", "a b", "A model id has letters"),
    ],
)
def test_conversation_start_refuses_a_choice_that_no_key_could_meet(
    alice: User, provider: str, model: str, words: str
) -> None:
    errors = errors_of(
        lambda: services.conversation_start(user=alice, agent="conversation", provider=provider, model=model)
    )
    assert errors["choice"][0].startswith(words)


def test_conversation_title_is_cut_between_words(alice: User) -> None:
    conversation = services.conversation_start(user=alice, agent="conversation", text="word\n" * 40)
    assert conversation.title == "word " * 13 + "word…"
    assert len(conversation.title) <= 120


def test_conversation_delete_takes_its_messages_along(alice: User) -> None:
    turn = sent(alice)
    services.conversation_delete(user=alice, conversation_id=turn.question.conversation_id)
    assert not StoredMessage.objects.exists()


def test_conversation_of_another_is_as_absent_as_none(alice: User, bob: User) -> None:
    conversation = ConversationFactory(user=alice)
    for key in (conversation.pk, uuid4()):
        with pytest.raises(Conversation.DoesNotExist):
            services.conversation_delete(user=bob, conversation_id=key)
        with pytest.raises(Conversation.DoesNotExist):
            services.message_send(user=bob, conversation_id=key, text="Hello")


# Messages


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\x00"])
def test_message_send_refuses_an_empty_one(alice: User, text: str) -> None:
    assert errors_of(lambda: sent(alice, text)) == {"text": ["Write a message first."]}


def test_message_send_refuses_a_megabyte_and_says_how_much_fits(alice: User) -> None:
    (words,) = errors_of(lambda: sent(alice, "x" * 1_000_000))["text"]
    assert words == "This message has 1,000,000 characters; at most 100,000 fit. Shorten it."


def test_message_send_waits_for_the_open_answer(alice: User) -> None:
    turn = sent(alice)
    with pytest.raises(services.ConversationBusy):
        services.message_send(user=alice, conversation_id=turn.question.conversation_id, text="And?")
    answered(turn)
    services.message_send(user=alice, conversation_id=turn.question.conversation_id, text="And?")
    rows = StoredMessage.objects.in_order()
    assert [row.role for row in rows] == ["user", "assistant", "user", "assistant"]


def test_message_send_goes_on_after_a_writer_died(alice: User) -> None:
    turn = sent(alice)
    services.message_write(turn.answer.pk, claimed(turn), text="Half an")
    StoredMessage.objects.update(heartbeat_at=timezone.now() - LONG_AGO)
    services.message_send(user=alice, conversation_id=turn.question.conversation_id, text="And?")
    turn.answer.refresh_from_db()
    assert (turn.answer.state, turn.answer.text) == (MessageState.INCOMPLETE, "Half an")
    assert turn.answer.error is not None
    assert turn.answer.error["class"] == "WriterDied"


def test_message_send_changes_who_answers(alice: User) -> None:
    turn = sent(alice)
    answered(turn)
    services.message_send(
        user=alice, conversation_id=turn.question.conversation_id, text="And?", provider="openai", model="gpt-x"
    )
    conversation = Conversation.objects.get()
    assert (conversation.provider, conversation.model) == ("openai", "gpt-x")


def test_message_claim_is_given_once(alice: User) -> None:
    turn = sent(alice)
    assert services.message_claim(turn.answer.pk) is not None
    assert services.message_claim(turn.answer.pk) is None


def test_message_finish_needs_the_claim(alice: User) -> None:
    turn = sent(alice)
    claim = claimed(turn)
    ending: dict[str, Any] = {"state": MessageState.COMPLETE, "messages": [LLMMessage.assistant("Mine.")]}
    assert not services.message_finish(turn.answer.pk, uuid4(), **ending)
    assert not services.message_write(turn.answer.pk, uuid4(), text="Not mine")
    assert services.message_finish(turn.answer.pk, claim, **ending)
    assert not services.message_finish(turn.answer.pk, claim, **ending)


def test_message_finish_keeps_tool_traffic_in_order_without_loss(alice: User) -> None:
    call = ToolCall(id="c1", name="add", arguments={"a": 1}, details={"gemini": {"signature": "s"}})
    traffic = (
        LLMMessage.assistant((TextPart(text="Let me see."), call)),
        LLMMessage.tool(ToolResult(call_id="c1", name="add", content="2")),
        LLMMessage.assistant("Two."),
    )
    turn = sent(alice)
    answered(turn, *traffic)
    rows = list(StoredMessage.objects.in_order())
    assert tuple(row.message for row in rows[1:]) == traffic
    assert rows[-1].pk == turn.answer.pk


@pytest.mark.parametrize("state", [MessageState.STOPPED, MessageState.FAILED, MessageState.INCOMPLETE])
def test_message_retry_asks_again_for_what_is_not_whole(alice: User, state: MessageState) -> None:
    turn = sent(alice)
    answered(turn, state=state)
    again = services.message_retry(user=alice, message_id=turn.answer.pk)
    assert (again.state, again.parts, again.error) == (MessageState.WAITING, (), None)
    assert services.message_claim(again.pk) is not None


def test_message_retry_refuses_a_whole_answer_and_an_older_one(alice: User) -> None:
    turn = sent(alice)
    answered(turn)
    assert "message" in errors_of(lambda: services.message_retry(user=alice, message_id=turn.answer.pk))
    StoredMessage.objects.filter(pk=turn.answer.pk).update(state=MessageState.FAILED)
    services.message_send(user=alice, conversation_id=turn.question.conversation_id, text="And?")
    assert "message" in errors_of(lambda: services.message_retry(user=alice, message_id=turn.answer.pk))


def test_message_retry_leaves_a_living_writer_alone(alice: User) -> None:
    turn = sent(alice)
    claimed(turn)
    with pytest.raises(services.ConversationBusy):
        services.message_retry(user=alice, message_id=turn.answer.pk)


def test_message_stop_notes_the_wish_or_ends_what_has_not_begun(alice: User) -> None:
    turn = sent(alice)
    assert services.message_stop(user=alice, message_id=turn.answer.pk).state == MessageState.STOPPED
    services.message_retry(user=alice, message_id=turn.answer.pk)
    claimed(turn)
    stopped = services.message_stop(user=alice, message_id=turn.answer.pk)
    assert stopped.state == MessageState.STREAMING
    assert stopped.stop_requested_at is not None


def test_message_stop_changes_nothing_that_is_over(alice: User) -> None:
    turn = sent(alice)
    answered(turn)
    assert services.message_stop(user=alice, message_id=turn.answer.pk).state == MessageState.COMPLETE


def test_message_of_another_is_as_absent_as_none(alice: User, bob: User) -> None:
    turn = sent(alice)
    for key in (turn.answer.pk, uuid4()):
        for act in (services.message_stop, services.message_retry):
            with pytest.raises(StoredMessage.DoesNotExist):
                act(user=bob, message_id=key)


# Runs


def test_run_create_queues_a_run(alice: User) -> None:
    run = runs.run_create(user=alice, agent="conversation", text=" Write a haiku. ")
    assert (run.state, run.input, run.user) == (RunState.QUEUED, "Write a haiku.", alice)


def test_run_create_refuses_what_a_message_refuses(alice: User) -> None:
    assert "text" in errors_of(lambda: runs.run_create(user=alice, agent="conversation", text=""))
    assert "agent" in errors_of(lambda: runs.run_create(user=alice, agent="nobody", text="x"))
    assert not AgentRun.objects.exists()


def test_run_claim_is_given_once_and_again_after_a_death(alice: User) -> None:
    run = AgentRunFactory(user=alice)
    first = runs.run_claim(run.pk)
    assert first is not None
    assert runs.run_claim(run.pk) is None
    AgentRun.objects.update(heartbeat_at=timezone.now() - LONG_AGO)
    second = runs.run_claim(run.pk)
    assert second is not None
    ending: dict[str, Any] = {"state": RunState.DONE, "steps": []}
    assert not runs.run_finish(run.pk, first, output="from the dead", **ending)
    assert runs.run_finish(run.pk, second, output="alive", **ending)
    run.refresh_from_db()
    assert (run.output, run.attempts, run.state) == ("alive", 2, RunState.DONE)


def test_run_finish_stores_what_postgresql_refuses(alice: User) -> None:
    run = AgentRunFactory(user=alice)
    claim = runs.run_claim(run.pk)
    assert claim is not None
    assert runs.run_finish(run.pk, claim, state=RunState.DONE, output="a\x00b\ud800c", steps=[])
    run.refresh_from_db()
    assert run.output == "a\ufffdb?c"


def test_run_cancel_ends_a_waiting_run_and_asks_a_running_one(alice: User) -> None:
    waiting, running = AgentRunFactory(user=alice), AgentRunFactory(user=alice)
    runs.run_claim(running.pk)
    assert runs.run_cancel(user=alice, run_id=waiting.pk).state == RunState.CANCELLED
    asked = runs.run_cancel(user=alice, run_id=running.pk)
    assert asked.state == RunState.RUNNING
    assert asked.cancel_requested_at is not None
    assert runs.run_claim(waiting.pk) is None


def test_run_cancel_ends_a_run_whose_worker_died(alice: User) -> None:
    run = AgentRunFactory(user=alice)
    runs.run_claim(run.pk)
    AgentRun.objects.update(heartbeat_at=timezone.now() - LONG_AGO)
    assert runs.run_cancel(user=alice, run_id=run.pk).state == RunState.CANCELLED


def test_run_of_another_is_as_absent_as_none(alice: User, bob: User) -> None:
    run = AgentRunFactory(user=alice)
    for key in (run.pk, uuid4()):
        with pytest.raises(AgentRun.DoesNotExist):
            runs.run_cancel(user=bob, run_id=key)


def test_querysets_give_nobody_nothing(alice: User, bob: User) -> None:
    sent(alice)
    AgentRunFactory(user=alice)
    for model in (Conversation, StoredMessage, AgentRun):
        assert model.objects.for_user(alice).exists()
        assert not model.objects.for_user(bob).exists()
        assert not model.objects.for_user(AnonymousUser()).exists()
