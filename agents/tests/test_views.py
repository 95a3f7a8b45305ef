"""Each page: works, refuses bad input, asks for login, is not there for strangers, gives htmx its fragment."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from agents import services
from agents.models import Conversation, MessageState, RunState, StoredMessage
from agents.receipts import error_json
from agents.tests.factories import AgentRunFactory, ConversationFactory, StoredMessageFactory
from agents.tests.live import sandbox_key
from agents.tests.reading import HTMX, finished, page
from agents.urls import urlpatterns
from llm_credentials.providers import LLMMessage, NotConfigured, TextPart, ToolCall, ToolResult


@pytest.fixture
def conversation(alice: User) -> Conversation:
    return services.conversation_start(user=alice, agent="conversation", text="Hello <b>secret</b>")


@pytest.fixture
def answer(conversation: Conversation) -> StoredMessage:
    return conversation.messages.get(role="assistant")


GUARDED = [
    ("get", "agents:agent-list", ()),
    ("get", "agents:agent-detail", ("conversation",)),
    ("post", "agents:agent-pick", ()),
    ("post", "agents:agent-open", ("conversation",)),
    ("post", "agents:run-start", ("conversation",)),
    ("post", "agents:schedule-create", ("conversation",)),
    ("get", "agents:run-stream", (uuid4(),)),
    ("get", "agents:run-file", (uuid4(), "changes.patch")),
    ("post", "agents:run-approve", (uuid4(),)),
    ("get", "agents:schedule-list", ()),
    ("get", "agents:expense-list", ()),
    ("get", "agents:expense-export", ()),
    ("get", "agents:expense-create", ()),
    ("get", "agents:expense-detail", (uuid4(),)),
    ("get", "agents:expense-delete", (uuid4(),)),
    ("post", "agents:message-approve", (uuid4(),)),
    ("get", "agents:server-list", ()),
    ("post", "agents:server-create", ()),
    ("post", "agents:server-refresh", (uuid4(),)),
    ("post", "agents:server-delete", (uuid4(),)),
    ("post", "agents:tool-approve", (uuid4(),)),
    ("post", "agents:tool-withdraw", (uuid4(),)),
    ("post", "agents:schedule-switch", (uuid4(),)),
    ("post", "agents:schedule-delete", (uuid4(),)),
    ("get", "agents:conversation-list", ()),
    ("post", "agents:conversation-create", ("conversation",)),
    ("get", "agents:conversation-detail", (uuid4(),)),
    ("get", "agents:conversation-delete", (uuid4(),)),
    ("post", "agents:conversation-delete", (uuid4(),)),
    ("post", "agents:message-create", (uuid4(),)),
    ("get", "agents:message-stream", (uuid4(),)),
    ("post", "agents:message-stop", (uuid4(),)),
    ("post", "agents:message-retry", (uuid4(),)),
    *(("post", f"agents:message-{does}", (uuid4(),)) for does in ("continue", "beside", "choose", "edit")),
    ("get", "agents:message-edit", (uuid4(),)),
    ("post", "agents:conversation-rename", (uuid4(),)),
    ("get", "agents:conversation-export", (uuid4(),)),
    ("get", "agents:run-list", ()),
    ("post", "agents:run-create", ()),
    ("get", "agents:run-detail", (uuid4(),)),
    ("post", "agents:run-cancel", (uuid4(),)),
    ("post", "agents:run-retry", (uuid4(),)),
    ("post", "agents:attachment-create", ()),
    ("get", "agents:attachment-detail", (uuid4(),)),
    ("post", "agents:attachment-delete", (uuid4(),)),
]


ASK_THEN_ACT = {
    *("agents:conversation-delete", "agents:message-edit"),
    *("agents:expense-create", "agents:expense-detail", "agents:expense-delete"),
}
"""Show a form on GET."""


def test_guarded_list_is_complete() -> None:
    assert {f"agents:{pattern.name}" for pattern in urlpatterns} == {name for _, name, _ in GUARDED}


@pytest.mark.any_database
@pytest.mark.parametrize(("method", "name", "args"), GUARDED)
def test_page_asks_for_login(client: Client, db: Any, method: str, name: str, args: tuple[UUID, ...]) -> None:
    response = getattr(client, method)(reverse(name, args=args))
    assert response.status_code == 302
    assert response["Location"].startswith("/accounts/login/?next=")


@pytest.mark.parametrize(("method", "name", "args"), [row for row in GUARDED if row[2]])
def test_page_of_nothing_is_not_there(browser: Client, method: str, name: str, args: tuple[Any, ...]) -> None:
    if args == ("conversation",):
        args = ("nobody",)
    for how in ({}, HTMX):
        assert getattr(browser, method)(reverse(name, args=args), **how).status_code == 404


@pytest.mark.parametrize(("method", "name", "args"), [row for row in GUARDED if row[2] and row[2] != ("conversation",)])
def test_page_of_a_colleague_is_not_there(
    browser: Client, bob: User, method: str, name: str, args: tuple[Any, ...]
) -> None:
    theirs = services.conversation_start(user=bob, agent="conversation", text="Mine")
    run = AgentRunFactory(user=bob)
    key = {"conversation": theirs.pk, "run": run.pk}.get(
        name.removeprefix("agents:").split("-")[0], theirs.messages.get(role="assistant").pk
    )
    if name == "agents:message-create":
        key = theirs.pk
    for how in ({}, HTMX):
        assert getattr(browser, method)(reverse(name, args=[key, *args[1:]]), {"text": "x"}, **how).status_code == 404
    assert theirs.messages.count() == 2
    run.refresh_from_db()
    assert run.state == RunState.QUEUED


@pytest.mark.any_database
@pytest.mark.parametrize(("method", "name", "args"), GUARDED)
def test_page_knows_its_method(browser: Client, method: str, name: str, args: tuple[Any, ...]) -> None:
    if name in ASK_THEN_ACT:
        wrong = "put"
    else:
        wrong = "post" if method == "get" else "get"
    assert getattr(browser, wrong)(reverse(name, args=args)).status_code == 405


def test_forms_need_their_token(alice: User, conversation: Conversation) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    url = reverse("agents:message-create", args=[conversation.pk])
    assert strict.post(url, {"text": "Hello"}).status_code == 403


# Agents


def test_agents_page_shows_each_with_an_example_to_click(browser: Client, alice: User, sandbox_url: str) -> None:
    sandbox_key(alice)
    html = page(browser, "/agents/")
    assert "Conversation" in html
    assert 'name="text" value="Explain how public-key encryption works to a curious teenager."' in html
    assert "No usable key yet." not in html


def test_agents_page_leads_to_the_keys_when_there_is_none(browser: Client) -> None:
    html = page(browser, "/agents/")
    assert "No usable key yet." in html
    assert reverse("llm_credentials:provider-start") in html


def test_agents_page_shows_ones_own_recent_conversations(browser: Client, alice: User, bob: User) -> None:
    ConversationFactory(user=alice, title="Mine <script>")
    ConversationFactory(user=bob, title="Theirs")
    html = page(browser, "/agents/")
    assert "Mine &lt;script&gt;" in html
    assert "Theirs" not in html


def test_example_starts_a_conversation_that_waits_for_its_reader(browser: Client, alice: User) -> None:
    response = browser.post("/agents/conversation/conversations/", {"text": "Tell me"})
    conversation = Conversation.objects.get(user=alice)
    assert response.status_code == 302
    assert response["Location"] == conversation.get_absolute_url()
    assert conversation.messages.open().count() == 1


def test_conversation_starts_empty_from_its_button(browser: Client) -> None:
    response = browser.post("/agents/conversation/conversations/")
    html = page(browser, response["Location"])
    assert "New conversation" in html
    assert 'data-fill="message-text"' in html


def test_conversation_start_with_a_megabyte_says_why_not(browser: Client) -> None:
    response = browser.post("/agents/conversation/conversations/", {"text": "x" * 1_000_000}, follow=True)
    assert "at most 100,000 fit" in response.content.decode()
    assert not Conversation.objects.exists()


# Conversations


def test_conversation_list_shows_ones_own(browser: Client, alice: User, bob: User) -> None:
    ConversationFactory(user=alice, title="Mine")
    ConversationFactory(user=bob, title="Theirs")
    html = page(browser, "/conversations/")
    assert "Mine" in html
    assert "Theirs" not in html


def test_conversation_list_says_how_to_begin(browser: Client) -> None:
    assert "No conversations yet" in page(browser, "/conversations/")


@pytest.mark.parametrize("number", ["0", "-1", "99999999999999999999", "x", ""])
def test_conversation_list_takes_any_page_number(browser: Client, alice: User, number: str) -> None:
    ConversationFactory.create_batch(31, user=alice)
    assert "of 2" in page(browser, f"/conversations/?page={number}")


def test_conversation_shows_its_turns_escaped(
    browser: Client, conversation: Conversation, answer: StoredMessage
) -> None:
    finished(answer, LLMMessage.assistant("**Hi** <script>alert(1)</script> ![x](https://evil.example/?q=1)"))
    html = page(browser, conversation.get_absolute_url())
    assert "Hello &lt;b&gt;secret&lt;/b&gt;" in html
    assert "<strong>Hi</strong> &lt;script&gt;" in html
    assert "<img" not in html


def test_conversation_waiting_for_its_answer_names_its_stream(
    browser: Client, conversation: Conversation, answer: StoredMessage
) -> None:
    html = page(browser, conversation.get_absolute_url())
    assert f'data-stream="/messages/{answer.pk}/stream/"' in html
    assert "Answer now" in html
    assert "data-busy" in html


def test_conversation_shows_what_it_took(browser: Client, conversation: Conversation, answer: StoredMessage) -> None:
    attempt = {"provider": "openai", "model": "gpt-x", "credential_id": None, "key_owner": "user", "latency_ms": 812}
    receipt = {
        "provider": "openai",
        "model": "gpt-<x>",
        "key_owner": "system",
        "finish_reason": "length",
        "usage": {"input_tokens": 1200, "output_tokens": 40},
        "cost_usd": "0.0042",
        "price_source": "genai-prices",
        "reason": "the default provider",
        "attempts": [{**attempt, "outcome": "RateLimited"}, {**attempt, "outcome": "ok"}],
    }
    finished(answer, receipt=receipt)
    html = page(browser, conversation.get_absolute_url())
    for words in (
        *("OpenAI", "gpt-&lt;x&gt;", "the organisation&#x27;s key", "1,240 tokens", "$0.0042", "2 attempts"),
        *("rate limited", "answered", "0.8 s", "the default provider", "reached its length limit"),
    ):
        assert words in html, words


def test_conversation_shows_an_unknown_cost_as_unknown(
    browser: Client, conversation: Conversation, answer: StoredMessage
) -> None:
    finished(answer, receipt={"provider": "gone", "model": "m", "usage": {}, "cost_usd": None, "attempts": []})
    html = page(browser, conversation.get_absolute_url())
    assert "cost unknown" in html
    assert "unknown tokens" in html


def test_conversation_shows_tools_folded(browser: Client, conversation: Conversation, answer: StoredMessage) -> None:
    call = ToolCall(id="c1", name="add", arguments={"a": 1})
    finished(
        answer,
        LLMMessage.assistant((TextPart(text="Let me see."), call)),
        LLMMessage.tool(ToolResult(call_id="c1", name="add", content="<script>2</script>")),
        LLMMessage.assistant("Two."),
    )
    html = page(browser, conversation.get_absolute_url())
    assert html.index("Let me see.") < html.index("&lt;script&gt;2") < html.index("Two.")


def test_conversation_without_a_key_links_to_the_keys(
    browser: Client, conversation: Conversation, answer: StoredMessage
) -> None:
    finished(answer, state=MessageState.FAILED, error=error_json(NotConfigured()))
    html = page(browser, conversation.get_absolute_url())
    assert "No usable key." in html
    assert "Open your keys" in html
    assert "Ask again" in html


def test_conversation_marks_an_answer_whose_writer_died(
    browser: Client, conversation: Conversation, answer: StoredMessage
) -> None:
    services.message_claim(answer.pk)
    StoredMessage.objects.filter(pk=answer.pk).update(heartbeat_at=timezone.now() - timedelta(minutes=5))
    assert "because the site was restarted" in page(browser, conversation.get_absolute_url())


def test_conversation_of_an_agent_that_is_gone_still_shows(browser: Client, alice: User) -> None:
    assert "retired" in page(browser, ConversationFactory(user=alice, agent="retired").get_absolute_url())


def test_conversation_page_asks_the_database_as_often_for_many_turns(
    browser: Client, alice: User, django_assert_max_num_queries: Any
) -> None:
    conversation = ConversationFactory(user=alice)
    for number in range(20):
        turn = services.message_send(user=alice, conversation_id=conversation.pk, text=f"Question {number}")
        finished(turn.answer)
    with django_assert_max_num_queries(25):
        page(browser, conversation.get_absolute_url())


def test_conversation_page_shows_the_newest_turns_first(browser: Client, alice: User) -> None:
    conversation = ConversationFactory(user=alice)
    for number in range(52):
        StoredMessageFactory(conversation=conversation, position=number * 1000, parts=(TextPart(text=f"Q{number}."),))
    html = page(browser, conversation.get_absolute_url())
    assert "Q1." not in html
    assert "Q2." in html
    assert "Show earlier messages" in html
    html = page(browser, conversation.get_absolute_url() + "?all")
    assert "Q0." in html
    assert "Show earlier messages" not in html


def test_conversation_removal_names_what_goes(browser: Client, conversation: Conversation) -> None:
    url = reverse("agents:conversation-delete", args=[conversation.pk])
    assert "“Hello &lt;b&gt;secret&lt;/b&gt;”" in page(browser, url)
    assert browser.post(url)["Location"] == "/conversations/"
    assert not Conversation.objects.exists()


# Staff


def test_admin_shows_that_conversations_exist_and_nothing_of_them(
    client: Client, staff: User, alice: User, conversation: Conversation, answer: StoredMessage
) -> None:
    finished(answer, LLMMessage.assistant("my secret answer"))
    run = AgentRunFactory(user=alice, input="my secret task", output="my secret output")
    client.force_login(staff)
    for url in (
        *("/admin/agents/conversation/", f"/admin/agents/conversation/{conversation.pk}/change/"),
        *("/admin/agents/agentrun/", f"/admin/agents/agentrun/{run.pk}/change/"),
    ):
        html = page(client, url)
        assert str(alice) in html
        assert "secret" not in html


@pytest.mark.usefixtures("journal")
def test_choices_are_ones_own_active_keys(browser: Client, alice: User, bob: User) -> None:
    sandbox_key(alice, model="sandbox-fast")
    sandbox_key(bob, model="sandbox-vision")
    conversation = ConversationFactory(user=alice, provider="openai", model="gpt-gone")
    html = page(browser, conversation.get_absolute_url())
    assert '<option value="sandbox:sandbox-fast">Sandbox · sandbox-fast</option>' in html
    assert '<option value="openai:gpt-gone" selected>' in html
    assert "sandbox-vision" not in html


@pytest.mark.parametrize("name", ["conversation-detail", "conversation-list", "run-list", "agent-list"])
def test_looking_at_a_page_writes_nothing(browser: Client, conversation: Conversation, name: str) -> None:
    address = reverse(f"agents:{name}", args=[conversation.pk] if name == "conversation-detail" else [])
    browser.get(address)
    with CaptureQueriesContext(
        connection,
    ) as seen:
        page(browser, address)
    assert [query["sql"] for query in seen if query["sql"].startswith(("INSERT", "UPDATE", "DELETE"))] == []
