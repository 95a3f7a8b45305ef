"""One user's things, a bit of everything, and the others who should get nothing of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, time
from functools import cached_property
from time import monotonic
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone

from agents import attachments
from agents.attachments import Attachment
from agents.expenses.models import Expense
from agents.models import AgentRun, Conversation, RunState, StoredMessage
from agents.schedules import ScheduledRun
from agents.servers import MCPServer
from agents.vectors import TextVector
from llm_credentials import services
from llm_credentials.ledger import writer
from llm_credentials.live import listener
from llm_credentials.models import (
    Alert,
    AuditEvent,
    ConnectionTest,
    EgressAllowance,
    GroupPolicy,
    LLMSettings,
    PersonalAccessToken,
    SystemConfig,
    SystemCredential,
    TaskOverride,
    UsageRecord,
    UserAllowance,
    UserCredential,
    Webhook,
)
from llm_credentials.providers import TextPart
from llm_credentials.search_keys import SearchDraft, search_key_save
from llm_credentials.tests.factories import SystemCredentialFactory, UsageRecordFactory, UserCredentialFactory
from llm_credentials.tests.proofs import proven
from project.tests.pages import Route, address
from project.tests.route_rules import ADMIN_MODELS

MARK = "mark-of-the-owner"
KEY = "sk-isolation-canary-0123456789abcdef"
SYSTEM_KEY = "sk-isolation-system-0123456789abcdef"


OWNED_MODELS: tuple[Any, ...] = (
    *(UserCredential, ConnectionTest, LLMSettings, TaskOverride, PersonalAccessToken, UsageRecord),
    *(Conversation, AgentRun, Attachment, TextVector, Authenticator, UserAllowance, Expense),
)


@dataclass(kw_only=True)
class World:
    alice: User
    ids: dict[str, str]

    def state(self) -> str:
        """Everything of the owner, and of the site, that nobody else may change."""
        with connection.cursor() as cursor:
            return repr([_fetched(cursor, *asked) for asked in self._asked])

    @cached_property
    def _asked(self) -> list[tuple[str, tuple[Any, ...]]]:
        """As SQL, which is put together once: a test looks several times."""
        user = User.objects.filter(pk=self.alice.pk)
        rows = [
            *(model._base_manager.filter(user=self.alice).order_by("pk").values_list() for model in OWNED_MODELS),
            StoredMessage.objects.filter(conversation__user=self.alice).order_by("pk").values_list(),
            user.values_list("password", "is_active", "is_staff", "email"),
            SystemCredential.objects.order_by("pk").values_list(),
            SystemConfig.objects.order_by("pk").values_list(),
            EgressAllowance.objects.order_by("pk").values_list(),
            GroupPolicy.objects.order_by("pk").values_list(),
        ]
        return [found.query.sql_with_params() for found in rows]


def _fetched(cursor: Any, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
    cursor.execute(sql, parameters)
    return list(cursor.fetchall())


sessions_of_others: dict[int, tuple[str, float]] = {}
"""By user: the key of a session that was begun while all was furnished, and when, on the monotonic clock."""
SESSION_FOR_S = 300.0
"""A third of the time for which a password that was given is proof enough."""


def entered(user: User) -> Client:
    """As ``proven``; in the session of when all was furnished, where that is still good."""
    key, begun_at = sessions_of_others.get(user.pk, ("", 0.0))
    if key and monotonic() - begun_at < SESSION_FOR_S and Session.objects.filter(pk=key).exists():
        client = Client()
        client.cookies[settings.SESSION_COOKIE_NAME] = key
        return client
    return proven(user)


def enter(user: User) -> None:
    sessions_of_others[user.pk] = (str(proven(user).session.session_key), monotonic())


@pytest.fixture(scope="module")
def furnished(django_db_setup: None, django_db_blocker: Any) -> Iterator[dict[str, str]]:
    """Made once, in a transaction around those of the tests, each of which goes back to it."""
    with django_db_blocker.unblock():
        around = transaction.atomic()
        around.__enter__()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writer, "inline", True)  # as in tests that commit nothing
            patch.setattr(listener, "ensure", lambda **_: None)
            alice = User.objects.create_user("alice", "alice@example.com", "alice-password")
            ids = furnish(alice)
            enter(alice)
            for other in others():
                enter(other)
    yield ids
    sessions_of_others.clear()
    with django_db_blocker.unblock():
        transaction.set_rollback(True)
        around.__exit__(None, None, None)


@pytest.fixture
def world(furnished: dict[str, str], db: Any) -> World:
    # Long ago for whoever comes late: it could not be undone any more.
    UserCredential.objects.filter(pk=furnished["credential_id"]).update(removed_at=timezone.now())
    return World(alice=User.objects.get(pk=furnished["auth_user"]), ids=dict(furnished))


@pytest.fixture
def own_world(alice: User) -> World:
    """For a test whose module has others that begin without her, or that commit."""
    return World(alice=alice, ids=furnish(alice))


def furnish(alice: User) -> dict[str, str]:
    """A bit of everything for her; the ids of it, by what addresses call them."""
    ids = _of_keys(alice) | _of_agents(alice) | _of_the_account(alice) | _of_nobody()
    return {name: str(value) for name, value in ids.items()}


def _of_keys(alice: User) -> dict[str, Any]:
    credential = UserCredentialFactory(user=alice, key=KEY, model=MARK)
    UserCredentialFactory(user=alice, provider="mistral", name=MARK, key=KEY)
    removed = UserCredentialFactory(user=alice, name="removed", key=KEY, removed_at=timezone.now())
    TaskOverride.objects.create(user=alice, task="code", model=MARK)
    Webhook.objects.create(user=alice, url=f"https://{MARK}.example/hook")
    test = ConnectionTest.objects.create(user=alice, provider="openai", detail=MARK, state="valid")
    token, _ = services.token_create(user=alice, name=MARK)
    return {
        "test_id": test.pk,
        "token_id": token.pk,
        "alert_id": Alert.objects.create(user=alice, kind="webhook_off", detail=MARK, at=timezone.now()).pk,
        "credential_id": removed.pk,
        "service": _search_service(alice),
        "llm_credentials_usercredential": credential.pk,
        "llm_credentials_systemcredential": SystemCredentialFactory(key=SYSTEM_KEY).pk,
        "llm_credentials_systemconfig": SystemConfig.objects.create(category="llm", key="supervisor", value={}).pk,
        "llm_credentials_egressallowance": EgressAllowance.objects.create(host="ollama.lan", port=11434).pk,
        "llm_credentials_llmsettings": LLMSettings.objects.create(user=alice, default_provider="openai").pk,
        "llm_credentials_personalaccesstoken": token.pk,
        "llm_credentials_grouppolicy": GroupPolicy.objects.create(group=Group.objects.create(name="group")).pk,
        "llm_credentials_userallowance": UserAllowance.objects.create(user=alice, daily_usd=1, note=MARK).pk,
        "llm_credentials_usagerecord": UsageRecordFactory(user=alice, model=MARK).pk,
        "llm_credentials_connectiontest": test.pk,
        "llm_credentials_auditevent": AuditEvent.objects.for_user(alice).earliest("at").pk,
    }


def _of_agents(alice: User) -> dict[str, Any]:
    conversation = Conversation.objects.create(user=alice, agent="conversation", title=MARK)
    conversation.messages.create(position=0, role="user", parts=(TextPart(text=MARK),))
    message = conversation.messages.create(
        position=999, role="assistant", parts=(TextPart(text=MARK),), state="incomplete"
    )
    design = {"subject": MARK, "html": MARK, "text": MARK}
    run = AgentRun.objects.create(user=alice, agent="email_design", input=MARK, state=RunState.QUEUED, result=design)
    server = MCPServer.objects.create(user=alice, name="mark", program=MARK)
    schedule = ScheduledRun.objects.create(
        user=alice, agent="conversation", input=MARK, every="day", at=time(8), next_at=timezone.now()
    )
    expense = Expense.objects.create(
        user=alice, vendor=MARK, date=date(2024, 11, 3), currency="EUR", total=5, note=MARK
    )
    return {
        "conversation_id": conversation.pk,
        "message_id": message.pk,
        "schedule_id": schedule.pk,
        "server_id": server.pk,
        "tool_id": server.tools.create(name=MARK, description=MARK, fingerprint="f").pk,
        "expense_id": expense.pk,
        "run_id": run.pk,
        "attachment_id": attachments.store_bytes(alice, f"{MARK}.txt", MARK.encode()).pk,
        "agents_conversation": conversation.pk,
        "agents_agentrun": run.pk,
    }


def _of_the_account(alice: User) -> dict[str, Any]:
    factor = Authenticator.objects.create(user=alice, type="webauthn", data={"name": MARK, "credential": {}})
    email = EmailAddress.objects.create(user=alice, email=f"{MARK}@example.com", primary=True, verified=True)
    session = UserSession.objects.create(user=alice, session_key=MARK, ip="127.0.0.1", user_agent=MARK)
    return {
        "pk": factor.pk,
        "id": alice.pk,
        "object_id": alice.pk,
        "auth_user": alice.pk,
        "auth_group": Group.objects.create(name=MARK).pk,
        "account_emailaddress": email.pk,
        "mfa_authenticator": factor.pk,
        "usersessions_usersession": session.pk,
    }


def _of_nobody() -> dict[str, Any]:
    """What addresses take that is nobody's."""
    return {
        "name": "mail.eml",
        "provider": "openai",
        "agent": "conversation",
        "task": "code",
        "key": "no-key",
        "use": "completions",
        "uidb36": "1",
        "content_type_id": ContentType.objects.get_for_model(User).pk,
        "app_label": "llm_credentials",
        "url": "nowhere",
    }


def _search_service(user: User) -> str:
    draft = SearchDraft(api_key=KEY, base_url="https://search.example.com")
    return search_key_save(user=user, provider="tavily", draft=draft)[0].provider


def path_of(route: Route, world: World) -> str:
    """The address with the owner's ids in it."""
    object_id = world.ids[_model_of(route) or "object_id"]
    return address(route.pattern, world.ids | {"object_id": object_id})


def _model_of(route: Route) -> str:
    """``app_model`` of an address of the admin; empty for any other."""
    parts = route.pattern.split("/")
    name = "_".join(parts[1:3])
    return name if parts[0] == "admin" and name in ADMIN_MODELS else ""


def others() -> Iterator[User]:
    """A colleague, staff of each kind, and somebody who is gone once all have entered."""
    yield User.objects.create_user("bob", "bob@example.com", "bob-password")
    yield User.objects.create_superuser("staff", "staff@example.com", "staff-password")
    for apps in ((), ("llm_credentials",)):
        clerk = User.objects.create_user("-".join(("clerk", *apps)), password="clerk-password", is_staff=True)
        seen = Permission.objects.filter(codename__startswith="view_", content_type__app_label__in=apps)
        clerk.user_permissions.set(seen)
        yield clerk
    gone = User.objects.create_user("gone", "gone@example.com", "gone-password")
    yield gone
    User.objects.filter(pk=gone.pk).update(is_active=False)


def deactivated() -> Client:
    gone = User.objects.filter(username="gone")
    gone.update(is_active=True)  # or a session that has become too old could not be begun anew
    client = entered(gone.get())
    gone.update(is_active=False)
    return client


def clerk(*apps: str) -> User:
    return User.objects.get(username="-".join(("clerk", *apps)))


AGENT_BODIES: dict[str, dict[str, Any]] = {
    "/agents/conversation/runs": {"input": "Hello"},
    "/api/conversations": {"agent": "conversation"},
    "/messages": {"text": "Hello"},
    "/approvals": {"approvals": {}},
    "/api/tool-servers": {"name": "mine", "program": "none"},
    "/approve": {"fingerprint": "f"},
    "/api/agents/pick": {"text": " "},  # refused before the site's key is used
    "/api/user/expenses": {"vendor": "Luna", "date": "2024-11-03", "currency": "EUR", "total": "5"},
    "/api/schedules": {"agent": "conversation", "input": "Hello", "every": "day", "at": "08:00"},
    "/edit": {"text": "Hello"},
    "/llm-transfer": {"document": {"format": "keyswitch-settings", "version": 1}},
    "/llm-transfer/keys": {"text": "A=b"},
    **{f"/{does}": {} for does in ("retry", "beside", "continue", "stop", "choose")},
}
"""By how the address of the API ends."""


def ask(client: Client, method: str, path: str, **headers: str) -> Any:
    if (method, path) == ("POST", "/api/attachments"):
        return client.post(path, {"file": SimpleUploadedFile("a.txt", b"Hello")}, headers=headers)
    if path.startswith("/api/") and method == "POST":
        stored = (path.endswith("/test") and not path.startswith("/api/settings/")) or "/available-models/" in path
        body: dict[str, Any] = {} if stored else {"provider": "openai"}
        if path == "/api/settings/ai/models":
            body = {"provider": "groq"}  # of a stored key the provider would be asked
        if path.endswith("/tokens"):
            body = {"scopes": ["read"]}
        body = next((said for end, said in AGENT_BODIES.items() if path.endswith(end)), body)
        return client.post(path, json.dumps(body), content_type="application/json", headers=headers)
    send: Callable[..., Any] = getattr(client, method.lower())
    if method in ("PUT", "PATCH"):
        named = {"provider": "openai"} if path.startswith("/api/settings/") else {}
        named = {"is_active": True} if path.startswith("/api/schedules/") else named
        named = {"note": "Hello"} if path.startswith("/api/user/expenses/") else named
        named = {"title": "Hello"} if path.startswith("/api/conversations/") else named
        return send(path, json.dumps(named), content_type="application/json", headers=headers)
    return send(path, headers=headers)
