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

from agents import runs, services
from agents.models import AgentRun, Conversation, MessageState, RunState, StoredMessage
from agents.receipts import error_json
from agents.tests.factories import AgentRunFactory, ConversationFactory, StoredMessageFactory
from agents.tests.live import sandbox_key
from agents.urls import urlpatterns
from llm_credentials.providers import LLMMessage, NotConfigured, TextPart, ToolCall, ToolResult

HTMX: dict[str, Any] = {"headers": {"HX-Request": "true"}}


@pytest.fixture
def conversation(alice: User) -> Conversation:
    return services.conversation_start(user=alice, agent="conversation", text="Hello <b>secret</b>")


@pytest.fixture
def answer(conversation: Conversation) -> StoredMessage:
    return conversation.messages.get(role="assistant")


def finished(answer: StoredMessage, *messages: LLMMessage, **ending: Any) -> None:
    claim = services.message_claim(answer.pk)
    assert claim is not None
    ending.setdefault("state", MessageState.COMPLETE)
    assert services.message_finish(answer.pk, claim, messages=messages or (LLMMessage.assistant("Hi."),), **ending)


def page(browser: Client, url: str, status: int = 200, **how: Any) -> str:
    response = browser.get(url, **how)
    assert response.status_code == status
    return response.content.decode()


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


# Runs


def test_run_list_shows_ones_own(browser: Client, alice: User, bob: User) -> None:
    AgentRunFactory(user=alice, input="Mine <b>")
    AgentRunFactory(user=bob, input="Theirs")
    html = page(browser, "/runs/")
    assert "Mine &lt;b&gt;" in html
    assert "Theirs" not in html


def test_run_create_queues_and_leads_to_the_run(browser: Client, alice: User, transactional_db: Any) -> None:
    response = browser.post("/runs/create/", {"agent": "conversation", "text": "Write a haiku.", "choice": ""})
    run = AgentRun.objects.get(user=alice)
    assert response["Location"] == run.get_absolute_url()
    assert "Queued" in page(browser, run.get_absolute_url())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"agent": "conversation", "text": ""}, "Write a message first."),
        ({"agent": "conversation", "text": "x" * 1_000_000}, "at most 100,000 fit"),
        ({"agent": "nobody", "text": "Hello"}, "There is no such agent."),
        ({"agent": "conversation", "text": "Hello", "choice": "nosuch:x"}, "There is no such provider."),
        ({}, "There is no such agent."),
    ],
)
def test_run_create_refuses_bad_input_in_words(browser: Client, fields: dict[str, str], words: str) -> None:
    response = browser.post("/runs/create/", fields)
    assert response.status_code == 422
    assert words in response.content.decode()
    assert not AgentRun.objects.exists()


def test_run_create_without_a_queue_answers_503_and_keeps_the_text(browser: Client, no_queue: None) -> None:
    response = browser.post("/runs/create/", {"agent": "conversation", "text": "Write a haiku."})
    assert response.status_code == 503
    html = response.content.decode()
    assert "Background runs cannot be started just now" in html
    assert "Write a haiku.</textarea>" in html
    assert not AgentRun.objects.exists()


def test_run_detail_asks_again_while_it_lasts(browser: Client, alice: User) -> None:
    run = AgentRunFactory(user=alice)
    fragment = page(browser, run.get_absolute_url(), **HTMX)
    assert "<html" not in fragment
    assert 'hx-trigger="every 5s"' in fragment
    seen = f"{run.get_absolute_url()}?seen={run.seen}"
    assert seen in fragment
    page(browser, seen, 204, **HTMX)
    assert "<html" in page(browser, seen)
    AgentRun.objects.update(state=RunState.DONE, output="**Done**", finished_at=timezone.now())
    fragment = page(browser, seen, **HTMX)
    assert "hx-trigger" not in fragment
    assert "<strong>Done</strong>" in fragment


def test_run_detail_says_when_no_worker_comes(browser: Client, alice: User) -> None:
    run = AgentRunFactory(user=alice)
    assert "No worker has taken this run yet." not in page(browser, run.get_absolute_url())
    AgentRun.objects.update(enqueued_at=timezone.now() - timedelta(seconds=5))
    html = page(browser, run.get_absolute_url())
    assert "No worker has taken this run yet." in html
    assert "Queue it again" in html


def test_run_detail_says_when_its_worker_is_silent(browser: Client, alice: User) -> None:
    run = AgentRunFactory(user=alice)
    runs.run_claim(run.pk)
    AgentRun.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=1))
    assert "has gone silent" in page(browser, run.get_absolute_url())


def test_run_detail_shows_a_failure_in_words(browser: Client, alice: User) -> None:
    run = AgentRunFactory(
        user=alice, state=RunState.FAILED, error=error_json(NotConfigured()), finished_at=timezone.now()
    )
    html = page(browser, run.get_absolute_url())
    assert "No usable key." in html
    assert "Open your keys" in html
    assert "Run again" in html


def test_run_cancel_ends_it(browser: Client, alice: User) -> None:
    run = AgentRunFactory(user=alice)
    url = reverse("agents:run-cancel", args=[run.pk])
    fragment = browser.post(url, **HTMX).content.decode()
    assert "Cancelled" in fragment
    assert "<html" not in fragment
    assert browser.post(url)["Location"] == run.get_absolute_url()


def test_run_retry_queues_an_open_one_again_and_copies_a_finished_one(browser: Client, alice: User) -> None:
    run = AgentRunFactory(user=alice)
    url = reverse("agents:run-retry", args=[run.pk])
    assert browser.post(url)["Location"] == run.get_absolute_url()
    AgentRun.objects.update(state=RunState.FAILED, finished_at=timezone.now())
    assert browser.post(url)["Location"] != run.get_absolute_url()
    assert AgentRun.objects.for_user(alice).count() == 2


def test_run_retry_without_a_queue_leaves_no_copy(browser: Client, alice: User, no_queue: None) -> None:
    run = AgentRunFactory(user=alice, state=RunState.FAILED, finished_at=timezone.now())
    assert browser.post(reverse("agents:run-retry", args=[run.pk])).status_code == 503
    assert AgentRun.objects.count() == 1


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
