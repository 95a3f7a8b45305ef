"""Deleting an account, and the export that comes before."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from allauth.usersessions.models import UserSession
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.urls import reverse

from agents import runs
from agents import services as agent_services
from agents import tasks as agent_tasks
from agents.models import AgentRun, Conversation, StoredMessage
from agents.tests.live import SandboxJournal, Visitor, sandbox_key
from llm_credentials import leaving, services, stepup
from llm_credentials.audit.verify import verify
from llm_credentials.factory import client_for
from llm_credentials.models import (
    AuditEvent,
    ConnectionTest,
    LLMSettings,
    PersonalAccessToken,
    UsageRecord,
    UserCredential,
)
from llm_credentials.providers import LLMMessage, NotConfigured, TextPart
from llm_credentials.tests.factories import UsageRecordFactory, UserCredentialFactory
from llm_credentials.tests.proofs import make_stale
from project.tests.servers import START_LIMIT_S, wait_until

KEY = "sk-leaving-canary-0123456789abcdef"


def _page(name: str) -> str:
    return reverse(f"llm_credentials:{name}")


@pytest.fixture
def proven(alice: User, client: Client) -> Client:
    """Alice's browser, in which she has just given her password again."""
    client.force_login(alice)
    url = reverse("account_reauthenticate")
    assert client.post(f"{url}?next=/", {"password": "alice-password"}).status_code == 302
    return client


@pytest.fixture
def belongings(alice: User) -> str:
    """One of everything; gives the token."""
    conversation = Conversation.objects.create(user=alice, agent="conversation", title="Plans")
    conversation.messages.create(position=0, role="user", parts=(TextPart(text="A plan of mine"),))
    AgentRun.objects.create(user=alice, agent="conversation", input="Do this")
    services.credential_save(user=alice, provider="openai", api_key=KEY)
    services.settings_update(user=alice, fallback_to_system=False)
    _, secret = services.token_create(user=alice, name="laptop")
    ConnectionTest.objects.create(user=alice, provider="openai")
    UsageRecordFactory(user=alice)
    EmailAddress.objects.create(user=alice, email=alice.email, primary=True, verified=True)
    return secret


def test_page_asks_for_a_recent_proof_first(alice: User, client: Client) -> None:
    client.force_login(alice)
    make_stale(client)
    response = client.get(_page("account-leave"), follow=True)
    assert response.redirect_chain[-1][0].startswith(reverse("account_reauthenticate"))
    proof = client.post(response.redirect_chain[-1][0], {"password": "alice-password"})
    assert proof["Location"] == _page("account-leave")


@pytest.mark.parametrize("name", ["account-export", "account-delete"])
def test_without_a_recent_proof_nothing_happens(alice: User, client: Client, name: str) -> None:
    client.force_login(alice)
    make_stale(client)
    response = client.post(_page(name), {"confirm": "alice"})
    assert (response.status_code, response["Location"]) == (302, stepup.url(_page("account-leave")))
    assert User.objects.filter(pk=alice.pk).exists()
    assert "confirm" not in json.dumps({key: str(value) for key, value in client.session.items()})


@pytest.mark.parametrize("name", ["account-leave", "account-export", "account-delete", "audit-event-list"])
def test_pages_ask_for_login(db: None, client: Client, name: str) -> None:
    method = client.post if name in ("account-export", "account-delete") else client.get
    response = method(_page(name))
    assert response.status_code == 302
    assert response["Location"].startswith(reverse("account_login"))


@pytest.mark.parametrize("typed", ["", "bob", "ALICE"])
def test_delete_wants_the_name_typed(proven: Client, alice: User, typed: str) -> None:
    response = proven.post(_page("account-delete"), {"confirm": typed})
    assert response.status_code == 422
    assert "Type your user name, alice" in response.content.decode()
    assert User.objects.filter(pk=alice.pk).exists()


def test_delete_takes_everything_and_keeps_the_books(proven: Client, alice: User, bob: User, belongings: str) -> None:
    UserCredentialFactory(user=bob)
    events = set(AuditEvent.objects.values_list("pk", flat=True))
    response = proven.post(_page("account-delete"), {"confirm": "alice"})
    assert (response.status_code, response["Location"]) == (302, "/")
    assert not User.objects.filter(username="alice").exists()
    for model in (UserCredential, PersonalAccessToken, ConnectionTest, LLMSettings):
        assert not model.objects.filter(user_id=alice.pk).exists()
    assert not EmailAddress.objects.filter(email=alice.email).exists()
    assert UserCredential.objects.for_user(bob).exists()
    assert UsageRecord.objects.get().user_id is None
    assert events <= set(AuditEvent.objects.values_list("pk", flat=True))
    assert AuditEvent.objects.order_by("-at").values_list("action", flat=True)[0] == "account.delete"
    assert services.token_authenticate(belongings) is None
    assert verify().holds


def test_delete_ends_every_session(proven: Client, alice: User) -> None:
    other = Client()
    other.post(reverse("account_login"), {"login": "alice", "password": "alice-password"})
    assert other.get(_page("security-detail")).status_code == 200
    session_key = other.session.session_key
    assert UserSession.objects.filter(user=alice, session_key=session_key).exists()
    proven.post(_page("account-delete"), {"confirm": "alice"})
    assert other.get(_page("security-detail")).status_code == 302
    assert not Session.objects.filter(session_key=session_key).exists()


def test_books_say_nothing_of_who_left(proven: Client, alice: User, belongings: str) -> None:
    proven.post(_page("account-delete"), {"confirm": "alice"})
    kept = [*UsageRecord.objects.values(), *AuditEvent.objects.values()]
    said = json.dumps(kept, default=str)
    for word in ("alice", alice.email, "127.0.0.1", KEY, "laptop"):
        assert word not in said


def test_export_holds_everything_but_keys(proven: Client, alice: User, bob: User, belongings: str) -> None:
    UserCredentialFactory(user=bob, name="of-bob")
    sealed = UserCredential.objects.for_user(alice).get()
    response = proven.post(_page("account-export"))
    assert response.status_code == 200
    assert "attachment" in response["Content-Disposition"]
    body = response.json()
    assert body["account"]["username"] == "alice"
    assert [row["provider"] for row in body["credentials"]] == ["openai"]
    assert {"settings", "access_tokens", "connection_tests", "usage", "audit_events"} <= set(body)
    assert {"conversations", "messages", "runs"} <= set(body)
    assert all(body[name] for name in ("settings", "access_tokens", "connection_tests", "usage", "audit_events"))
    assert body["messages"][0]["parts"] == [{"type": "text", "text": "A plan of mine"}]
    assert [body["conversations"][0]["title"], body["runs"][0]["input"]] == ["Plans", "Do this"]
    text = response.content.decode()
    for secret in (KEY, belongings, sealed.fingerprint, "v1:t1:", "of-bob"):
        assert secret not in text
    assert AuditEvent.objects.filter(action="account.export", subject=str(alice.pk)).count() == 1


def test_export_leaves_out_no_table_of_the_user(alice: User) -> None:
    """A new model that belongs to users has to be exported, or named here with the reason why not."""
    never: dict[str, str] = {
        "LogEntry": "what staff did in the admin",
        "Authenticator": "secrets of second factors",
        "UserSession": "sessions, shown on their own page",
        "EmailAddress": "stands under account",
        "BudgetCounter": "sums of the usage rows",
        "TextVector": "computed from messages and files, which are exported",
    }
    exported = {
        *("UserCredential", "LLMSettings", "TaskOverride", "PersonalAccessToken", "ConnectionTest", "UsageRecord"),
        *("UsageDay", "UserAllowance", "Alert", "Webhook", "SearchCredential"),
        *("Conversation", "AgentRun", "Attachment", "ScheduledRun", "MCPServer", "Expense"),
    }
    related: set[str] = {
        field.related_model.__name__  # type: ignore[union-attr]
        for field in User._meta.get_fields(include_hidden=True)
        if (field.auto_created and not field.concrete and field.one_to_many) or field.one_to_one
    }
    auth: dict[str, Any] = {"User_groups": "rights", "User_user_permissions": "rights"}
    assert related - exported - set(never) - set(auth) == set()


# History


def test_history_shows_own_events_only(alice: User, bob: User, client: Client) -> None:
    services.credential_save(user=alice, provider="openai", api_key=KEY)
    services.credential_save(user=bob, provider="mistral", api_key=KEY)
    client.force_login(bob)
    text = client.get(_page("audit-event-list")).content.decode()
    assert "Mistral" in text
    assert "OpenAI" not in text
    body = client.get("/api/user/audit-events").json()
    assert {item["about"] for item in body["items"]} == {"Mistral", ""}
    assert body["count"] == len(body["items"])


def test_history_says_staff_without_saying_who(alice: User, staff: User, client: Client) -> None:
    credential = UserCredentialFactory(user=alice)
    client.force_login(staff)
    client.get(reverse("admin:llm_credentials_usercredential_change", args=[credential.pk]))
    client.force_login(alice)
    (seen,) = [item for item in client.get("/api/user/audit-events").json()["items"] if item["action"] != "login"]
    assert (seen["action"], seen["by"], seen["ip"]) == ("credential.view", "staff", "")


@pytest.mark.parametrize("query", ["page=0", "page=1000000000000", "page_size=1000000000", "page=x"])
def test_history_refuses_senseless_pages(alice: User, client: Client, query: str) -> None:
    client.force_login(alice)
    assert client.get(f"/api/user/audit-events?{query}").status_code == 422
    assert client.get(f"{_page('audit-event-list')}?{query}").status_code == 200


def test_history_past_the_end_is_empty(alice: User, client: Client) -> None:
    client.force_login(alice)
    assert client.get("/api/user/audit-events?page=9999").json()["items"] == []


def test_leaving_takes_the_watched_work_along(alice: User) -> None:
    """Runs and answers lose their rows, which is how their workers know."""
    run = AgentRun.objects.create(user=alice, agent="conversation", input="x", state="running")
    conversation = Conversation.objects.create(user=alice, agent="conversation")
    message = conversation.messages.create(position=0, role="assistant", parts=(), state="streaming")
    leaving.account_delete(user=alice)
    assert not AgentRun.objects.filter(pk=run.pk).exists()
    assert not StoredMessage.objects.filter(pk=message.pk).exists()


# What is under way


@pytest.fixture
def journal(sandbox_url: str) -> SandboxJournal:
    journal = SandboxJournal(sandbox_url)
    journal.reset()
    return journal


def test_leaving_ends_a_stream_and_its_call_upstream(live_site: str, alice: User, journal: SandboxJournal) -> None:
    sandbox_key(alice)
    conversation = agent_services.conversation_start(user=alice, agent="conversation", text="count to 500")
    answer = conversation.messages.get(role="assistant")
    stream = Visitor.of(live_site, alice).read(f"/messages/{answer.pk}/stream/")
    stream.until_text("10")
    leaving.account_delete(user=alice)
    journal.wait_gone()
    assert stream.last()[0] == "error"
    assert not StoredMessage.objects.exists()


def test_leaving_ends_a_run_and_its_call_upstream(
    alice: User, journal: SandboxJournal, celery_worker_thread: Any
) -> None:
    sandbox_key(alice)
    run = runs.run_create(user=alice, agent="conversation", text="count to 500")
    agent_tasks.enqueue_run(run)
    wait_until(lambda: AgentRun.objects.filter(pk=run.pk, output__contains="10").exists(), "the run to write")
    leaving.account_delete(user=alice)
    journal.wait_gone()
    assert not AgentRun.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_key_deleted_by_another_process_is_used_no_more(alice: User, journal: SandboxJournal) -> None:
    """Within a second, whatever this process keeps: it is told nothing, and looks again by itself."""
    sandbox_key(alice)

    async def ask_once() -> bool:
        try:
            await client_for(alice).complete([LLMMessage.user("Hello")])
        except NotConfigured:
            return False
        return True

    async def delete_and_ask() -> None:
        assert await ask_once()
        await asyncio.to_thread(_delete_in_another_process, UserCredential._meta.db_table)
        began = time.monotonic()
        while await ask_once():
            assert time.monotonic() < began + START_LIMIT_S

    async_to_sync(delete_and_ask)()
    asked = len(journal.chats())
    assert not async_to_sync(ask_once)()
    assert len(journal.chats()) == asked


def _delete_in_another_process(table: str) -> None:
    """By SQL alone, so that nothing in this process hears of it."""
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {table}")
    connection.close()
