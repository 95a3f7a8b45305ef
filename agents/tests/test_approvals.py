"""Answers that ask their user before a tool does something, in a conversation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.test import Client

from agents import answering, approvals, services
from agents.models import MessageState, StoredMessage
from agents.services import ConversationBusy
from agents.tests.agents_of_tests import NOTES, WriterAgent, on_the_site
from agents.tests.scripted import Answer, ScriptedClient, call

pytestmark = pytest.mark.django_db
MILK = Answer(text=["I will note it."], calls=[call("note", "c1", text="milk"), call("note", "c2", text="eggs")])


@pytest.fixture(autouse=True)
def writer() -> Iterator[None]:
    with on_the_site(WriterAgent):
        yield


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Any:
    def script(*answers: Answer | str) -> ScriptedClient:
        client = ScriptedClient(*answers)
        monkeypatch.setattr(WriterAgent, "_routed_client", lambda self: client)
        return client

    return script


def asked(user: User) -> StoredMessage:
    """An answer that has been written as far as it comes."""
    conversation = services.conversation_start(user=user, agent="writer", text="Note milk and eggs")
    answer = conversation.messages.get(role="assistant")
    return write(answer)


def write(answer: StoredMessage) -> StoredMessage:
    async_to_sync(answering.finish_answer)(answer.pk)
    answer.refresh_from_db()
    return answer


def test_answer_waits_for_its_users_yes_and_goes_on_once(alice: User, says: Any) -> None:
    client = says(MILK, "Milk is noted.")
    answer = asked(alice)
    assert (answer.state, answer.text, NOTES) == (MessageState.ASKING, "I will note it.", [])
    assert [(each["id"], each["arguments"], each["answer"]) for each in answer.pending or []] == [
        ("c1", {"text": "milk"}, None),
        ("c2", {"text": "eggs"}, None),
    ]
    approvals.message_answer(user=alice, message_id=answer.pk, answers={"c1": True, "c2": False})
    assert write(answer).state == MessageState.COMPLETE
    assert NOTES == ["milk"]
    assert (answer.text, answer.pending, answer.paused) == ("Milk is noted.", None, "")
    results = client.asked[1][-1].tool_results
    assert [(each.call_id, each.is_error) for each in results] == [("c1", False), ("c2", True)]
    rows = [row.role for row in answer.conversation.messages.in_order()]
    assert rows == ["user", "assistant", "tool", "assistant"]
    with pytest.raises(ValidationError, match="waits for nothing"):
        approvals.message_answer(user=alice, message_id=answer.pk, answers={"c2": True})
    assert write(answer).state == MessageState.COMPLETE
    assert NOTES == ["milk"]


def test_answer_may_ask_again(alice: User, says: Any) -> None:
    client = says(MILK, Answer(calls=[call("note", "c3", text="flour")]), "All noted.")
    answer = asked(alice)
    approvals.message_answer(user=alice, message_id=answer.pk, answers={"c1": True, "c2": True})
    assert write(answer).state == MessageState.ASKING
    assert [each["id"] for each in answer.pending or []] == ["c3"]
    approvals.message_answer(user=alice, message_id=answer.pk, answers={"c3": True})
    assert write(answer).text == "All noted."
    assert NOTES == ["milk", "eggs", "flour"]
    assert len(client.asked[2]) == 6  # instructions, question, twice call and result


def test_writing_on_is_a_no(alice: User, says: Any) -> None:
    says(MILK, "Well then.")
    answer = asked(alice)
    turn = services.message_send(user=alice, conversation_id=answer.conversation_id, text="Never mind")
    answer.refresh_from_db()
    assert (answer.state, answer.pending) == (MessageState.STOPPED, None)
    with pytest.raises((ValidationError, ConversationBusy)):
        approvals.message_answer(user=alice, message_id=answer.pk, answers={"c1": True})
    assert write(turn.answer).text == "Well then."
    assert NOTES == []


def test_stopped_or_asked_again_it_makes_none_of_the_calls(alice: User, says: Any) -> None:
    says(MILK, "Without notes.")
    answer = asked(alice)
    services.message_retry(user=alice, message_id=answer.pk)
    assert write(answer).text == "Without notes."
    says(MILK)
    other = asked(alice)
    assert services.message_stop(user=alice, message_id=other.pk).state == MessageState.STOPPED
    assert NOTES == []


def test_answer_whose_writer_died_while_calling_is_not_gone_on_with(alice: User, says: Any) -> None:
    says(MILK, "From the beginning.")
    answer = asked(alice)
    approvals.message_answer(user=alice, message_id=answer.pk, answers={"c1": True})
    claim = services.message_claim(answer.pk)
    assert claim is not None
    StoredMessage.objects.filter(pk=answer.pk).update(heartbeat_at="2020-01-01T00:00:00Z")
    services.messages_settle(answer.conversation)
    with pytest.raises(ValidationError, match="waits for nothing"):
        approvals.message_answer(user=alice, message_id=answer.pk, answers={"c1": True})
    services.message_retry(user=alice, message_id=answer.pk)
    assert write(answer).text == "From the beginning."
    assert NOTES == []


def test_page_asks_for_each_call_and_takes_the_answers(client: Client, alice: User, bob: User, says: Any) -> None:
    says(MILK, "Noted.")
    answer = asked(alice)
    client.force_login(alice)
    page = client.get(answer.conversation.get_absolute_url()).content.decode()
    assert "These 2 need your yes" in page
    assert f'hx-target="#answer-{answer.pk}"' in page
    path = f"/messages/{answer.pk}/approve/"
    client.force_login(bob)
    assert client.post(path, {"call-0": "yes"}).status_code == 404
    client.force_login(alice)
    part = client.post(path, {"call-0": "yes", "call-1": "no"}, headers={"HX-Request": "true"}).content.decode()
    assert f'data-stream="/messages/{answer.pk}/stream/"' in part
    assert "I will note it." in part
    assert client.post(path, {"call-0": "yes"}, headers={"HX-Request": "true"}).status_code == 409
    assert write(answer).text == "Noted."
    assert NOTES == ["milk"]


def test_api_shows_what_is_asked_and_goes_on_with_the_answers(client: Client, alice: User, says: Any) -> None:
    says(MILK, "Noted.")
    client.force_login(alice)
    made = client.post("/api/conversations", {"agent": "writer"}, content_type="application/json").json()
    path = f"/api/conversations/{made['id']}/messages"
    headers = {"Accept": "text/event-stream"}
    streamed = client.post(path, {"text": "Note milk"}, content_type="application/json", headers=headers)
    events = b"".join(_chunks(streamed)).decode()
    assert "event: approval" in events
    message = json.loads(events.rpartition("data: ")[2].partition("\n")[0])
    assert (message["state"], [each["name"] for each in message["pending"]]) == ("asking", ["note", "note"])
    path = f"/api/messages/{message['id']}/approvals"
    wrong = client.post(path, {"approvals": {"c9": True}}, content_type="application/json")
    assert (wrong.status_code, wrong.json()["error"]["where"]) == (422, "body.approvals")
    done = client.post(path, {"approvals": {"c1": True}}, content_type="application/json").json()
    assert (done["state"], done["text"], done["pending"]) == ("complete", "Noted.", None)
    assert client.post(path, {"approvals": {}}, content_type="application/json").status_code == 422
    assert NOTES == ["milk"]


def _chunks(response: Any) -> list[bytes]:
    async def read() -> list[bytes]:
        return [chunk async for chunk in response.streaming_content]

    result: list[bytes] = async_to_sync(read)()
    return result
