"""Without an event no key is opened, and whoever waits is told so in words: page, API, test, answer, run, Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from agents import answering, running, runs
from agents import services as agent_services
from agents.catalog.conversation import ConversationAgent
from llm_credentials import bridge, connection_tests, services
from llm_credentials.audit import AuditUnavailable
from llm_credentials.factory import client_for
from llm_credentials.models import ConnectionTest, UserCredential
from llm_credentials.providers import LLMError, LLMMessage
from llm_credentials.providers.sandbox.running import start_sandbox_thread
from project.tests.servers import wait_until

WORDS = AuditUnavailable.user_message

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def untouched(sandbox_url: str, settings: Any) -> Iterator[None]:
    """A sandbox of its own that must have seen nothing in the end."""
    import urllib.request

    url, stop = start_sandbox_thread()
    settings.SANDBOX_URL, settings.LLM_EGRESS_ALLOW = url, [url.removeprefix("http://")]
    yield
    with urllib.request.urlopen(f"{url}/_sandbox/counts") as answer:
        assert b'"requests": 0' in answer.read().replace(b'":0', b'": 0')
    stop()


@pytest.fixture
def owner(alice: User, untouched: None) -> User:
    services.credential_save(user=alice, provider="sandbox", api_key="sbx-good-unavailable-0123456789")
    return alice


@pytest.fixture
def no_trail(owner: User) -> Iterator[None]:
    """The chains' ends are away: nothing can be written, everything else works."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE audit_heads RENAME TO audit_heads_away")
    yield
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE audit_heads_away RENAME TO audit_heads")


@pytest.fixture
def visitor(owner: User) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(owner)
    return client


def test_page_is_a_worded_503(visitor: Client, no_trail: None) -> None:
    response = visitor.get("/settings/llm/sandbox/models/", headers={"HX-Request": "true"})
    assert (response.status_code, response["Retry-After"]) == (503, "5")
    assert WORDS in response.content.decode()


def test_api_is_a_worded_503(visitor: Client, no_trail: None) -> None:
    response = visitor.get("/api/user/llm-credentials/available-models/sandbox")
    assert (response.status_code, response["Retry-After"]) == (503, "5")
    assert response.json() == {"error": {"code": "audit_unavailable", "message": WORDS, "where": None}}


def test_change_that_cannot_be_written_down_is_refused_and_changes_nothing(
    visitor: Client, owner: User, no_trail: None
) -> None:
    response = visitor.post("/settings/llm/sandbox/toggle/", {"active": "off"})
    assert response.status_code == 503
    assert UserCredential.objects.get(user=owner).is_active


def test_connection_test_says_so_and_blames_no_key(owner: User, request: pytest.FixtureRequest) -> None:
    test = connection_tests.test_start(user=owner, provider="sandbox")
    request.getfixturevalue("no_trail")
    connection_tests.test_run(test.pk)
    ended = ConnectionTest.objects.get(pk=test.pk)
    assert (ended.state, ended.detail) == ("error", WORDS)
    assert UserCredential.objects.get(user=owner).status == "unverified"


def test_answer_says_so_and_keeps_the_question(owner: User, no_trail: None) -> None:
    conversation = agent_services.conversation_start(user=owner, agent="conversation", text="Hello")
    answer = conversation.messages.get(role="assistant")
    async_to_sync(answering.finish_answer)(answer.pk)
    answer.refresh_from_db()
    assert answer.error is not None
    assert (answer.state, answer.error["message"], answer.error["retryable"]) == ("failed", WORDS, True)
    assert conversation.messages.get(role="user").text == "Hello"


def test_run_says_so(owner: User, no_trail: None) -> None:
    run = runs.run_create(user=owner, agent="conversation", text="Hello")
    bridge.run(running.run_execute, run.pk)
    run.refresh_from_db()
    assert run.error is not None
    assert (run.state, run.error["message"]) == ("failed", WORDS)


def test_call_ends_at_once_without_blaming_a_key_or_trying_the_next(owner: User, no_trail: None) -> None:
    """Every other key would need an event just the same."""
    services_before = list(UserCredential.objects.values_list("status", "request_count"))
    for ask in (
        lambda: bridge.run(client_for(owner).complete, [LLMMessage.user("Hello")]),
        lambda: bridge.run(ConversationAgent(owner).run, "Hello"),
    ):
        with pytest.raises(AuditUnavailable) as caught:
            ask()
        assert not isinstance(caught.value, LLMError)
    assert list(UserCredential.objects.values_list("status", "request_count")) == services_before


def test_void_reservation_is_left_behind(owner: User, no_trail: None) -> None:
    from llm_credentials.models import UsageRecord

    with pytest.raises(AuditUnavailable):
        bridge.run(client_for(owner).complete, [LLMMessage.user("Hello")])
    row = wait_until(lambda: UsageRecord.objects.filter(user=owner).exclude(state="reserved").first(), "its settlement")
    assert (row.state, row.outcome, row.cost_usd) == ("void", "AuditUnavailable", 0)
