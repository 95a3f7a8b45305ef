"""Every address of the site, asked by everybody who should get nothing: generated from the URLconf.

A route that is not in the tables below fails ``test_every_route_has_an_expectation``. Whatever somebody else is
answered, nothing of the owner may stand in it, and nothing of the owner may change.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from enum import Enum
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
from project.tests.pages import Route, address, routes

MARK = "mark-of-the-owner"
KEY = "sk-isolation-canary-0123456789abcdef"
SYSTEM_KEY = "sk-isolation-system-0123456789abcdef"


class Kind(Enum):
    PUBLIC = "for everybody"
    OWN = "shows whoever asks their own things"
    OWNED = "names a thing of one user"
    API = "for tokens and sessions, each its own things"
    SITE_API = "for tokens and sessions of staff with the permission"
    STAFF = "for staff of every kind"
    ADMIN = "for staff with the permission"


@dataclass(frozen=True, kw_only=True)
class Rule:
    kind: Kind
    method: str = "GET"
    scope: str = ""
    auditor: int = 403
    """What staff get of the API who may only view; what they get in the admin, ``test_roles.py`` says."""
    data: dict[str, str] = field(default_factory=dict)


PUBLIC, OWN, OWNED = Rule(kind=Kind.PUBLIC), Rule(kind=Kind.OWN), Rule(kind=Kind.OWNED)
OWN_POST, OWNED_POST = Rule(kind=Kind.OWN, method="POST"), Rule(kind=Kind.OWNED, method="POST")
STAFF = Rule(kind=Kind.STAFF)


def api(method: str, scope: str) -> Rule:
    return Rule(kind=Kind.API, method=method, scope=scope)


def site_api(method: str, scope: str, auditor: int = 403) -> Rule:
    return Rule(kind=Kind.SITE_API, method=method, scope=scope, auditor=auditor)


def names(prefix: str, rule: Rule, *rest: str) -> dict[str, Rule]:
    return {prefix + each: rule for each in rest}


ROUTES: dict[str, Rule] = {
    **names("", PUBLIC, "home", "healthz", "readyz", "metrics", "javascript-catalog"),
    **names("account_", PUBLIC, "login", "logout", "inactive", "signup", "email_verification_sent", "reset_password"),
    **names("account_", PUBLIC, "confirm_login_code", "confirm_email", "reset_password_from_key_done"),
    **names("account_", PUBLIC, "reset_password_from_key", "reset_password_done"),
    **names("account_", OWN, "reauthenticate", "email", "change_password", "set_password"),
    **names("mfa_", PUBLIC, "authenticate", "login_webauthn"),
    **names("mfa_", OWN, "index", "reauthenticate", "activate_totp", "deactivate_totp", "view_recovery_codes"),
    **names("mfa_", OWN, "generate_recovery_codes", "download_recovery_codes", "list_webauthn", "add_webauthn"),
    **names("mfa_", OWN, "reauthenticate_webauthn"),
    **names("mfa_", OWNED, "remove_webauthn", "edit_webauthn"),
    **names("", OWN, "usersessions_list"),
    # agents
    **names("agents:", OWN, "agent-list", "agent-detail", "conversation-list", "run-list", "schedule-list"),
    **names("agents:", OWN, "server-list", "expense-list", "expense-create", "expense-export"),
    **names("agents:", OWNED, "expense-detail", "expense-delete"),
    **names("agents:", OWN_POST, "server-create"),
    **names("agents:", OWNED_POST, "server-refresh", "server-delete", "tool-approve", "tool-withdraw"),
    **names("agents:", OWN_POST, "agent-pick", "agent-open", "run-start", "schedule-create"),
    **names("agents:", OWNED, "run-stream", "run-file"),
    **names("agents:", OWNED_POST, "run-approve", "schedule-switch", "schedule-delete"),
    **names("agents:", OWN_POST, "conversation-create", "run-create"),
    **names("agents:", OWNED, "conversation-detail", "run-detail", "message-stream"),
    **names("agents:", OWNED_POST, "conversation-delete", "message-create", "message-stop", "message-retry"),
    **names("agents:", OWNED_POST, "message-continue", "message-beside", "message-choose", "conversation-rename"),
    **names("agents:", OWNED_POST, "message-approve"),
    **names("agents:", OWNED, "conversation-export", "message-edit"),
    **names("agents:", OWNED_POST, "run-cancel", "run-retry", "attachment-delete"),
    **names("agents:", OWNED, "attachment-detail"),
    **names("agents:", OWN_POST, "attachment-create"),
    # settings
    **names("llm_credentials:", PUBLIC, "styleguide", "provider-compare"),
    **names("llm_credentials:", OWN, "settings-index", "security-detail", "audit-event-list", "account-leave"),
    **names("llm_credentials:", OWN, "step-up", "step-up-done", "removed-list", "settings-events", "provider-start"),
    **names("llm_credentials:", OWN, "token-list", "token-create"),
    **names("llm_credentials:", OWNED, "token-confirm-revocation"),
    **names("llm_credentials:", OWNED_POST, "token-revoke"),
    **names("llm_credentials:", OWN_POST, "account-export", "account-delete", "default-provider-set", "fallback-set"),
    **names("llm_credentials:", OWN_POST, "key-order", "key-move", "start-save", "start-with-system"),
    **names("llm_credentials:", OWN, "transfer-detail", "settings-export"),
    **names("llm_credentials:", OWN_POST, "settings-import-look", "settings-import", "env-import-look", "env-import"),
    **names("llm_credentials:", OWN, "usage-detail", "usage-export", "alert-settings"),
    **names("llm_credentials:", OWN_POST, "alert-settings-save", "webhook-set", "webhook-remove", "webhook-test"),
    **names("llm_credentials:", OWNED_POST, "alert-dismiss"),
    **names("llm_credentials:", OWN, "search-settings"),
    **names("llm_credentials:", OWN_POST, "search-key-change", "search-key-try", "search-key-remove"),
    **names("llm_credentials:", OWN_POST, "budget-set"),
    **names("llm_credentials:", OWN, "provider-list", "credential-edit", "credential-detail", "model-list"),
    **names("llm_credentials:", OWN_POST, "credential-save", "credential-test", "model-list-load"),
    **names("llm_credentials:", OWN_POST, "credential-replace"),
    **names("llm_credentials:", OWN, "routing-detail"),
    **names("llm_credentials:", OWN_POST, "routing-strategy-set", "routing-defaults-set", "chain-set", "chain-move"),
    **names("llm_credentials:", OWN_POST, "task-override-set", "task-override-reset"),
    **names("llm_credentials:", OWNED, "connection-test-detail", "credential-confirm-removal"),
    **names("llm_credentials:", OWNED_POST, "credential-toggle", "credential-delete", "credential-undo"),
    **names("llm_credentials:", OWNED_POST, "replacement-save"),
    # the API
    **names("api:", PUBLIC, "openapi-json", "openapi-view", "api-root"),
    "api:credential_list": api("GET", "read"),
    "api:credential_save": api("POST", "credentials"),
    "api:model_list": api("GET", "read"),
    "api:model_list_unsaved": api("POST", "credentials"),
    "api:connection_test_get": api("GET", "read"),
    "api:connection_test_start": api("POST", "credentials"),
    "api:credential_get": api("GET", "read"),
    "api:credential_delete": api("DELETE", "credentials"),
    "api:credential_change": api("PATCH", "credentials"),
    "api:replacement_save": api("POST", "credentials"),
    "api:search_credential_list": api("GET", "read"),
    "api:search_credential_save": api("POST", "credentials"),
    "api:search_credential_get": api("GET", "read"),
    "api:search_credential_delete": api("DELETE", "credentials"),
    "api:search_credential_test": api("POST", "credentials"),
    "api:token_list": api("GET", "read"),
    "api:token_create": api("POST", "credentials"),
    "api:token_revoke": api("DELETE", "credentials"),
    "api:audit_event_list": api("GET", "read"),
    "api:settings_get": api("GET", "read"),
    "api:settings_change": api("PATCH", "credentials"),
    "api:task_override_list": api("GET", "read"),
    "api:task_override_get": api("GET", "read"),
    "api:task_override_set": api("PUT", "credentials"),
    "api:task_override_delete": api("DELETE", "credentials"),
    "api:settings_export": api("GET", "read"),
    "api:settings_import": api("POST", "credentials"),
    "api:keys_import": api("POST", "credentials"),
    "api:route_list": api("GET", "read"),
    "api:provider_list": api("GET", "read"),
    "api:usage_list": api("GET", "read"),
    "api:provider_compare": api("GET", "read"),
    "api:alert_list": api("GET", "read"),
    "api:alert_dismiss": api("DELETE", "credentials"),
    "api:alert_settings_get": api("GET", "read"),
    "api:alert_settings_change": api("PATCH", "credentials"),
    "api:webhook_get": api("GET", "read"),
    "api:webhook_set": api("PUT", "credentials"),
    "api:webhook_remove": api("DELETE", "credentials"),
    "api:webhook_test": api("POST", "credentials"),
    "api:key_order_get": api("GET", "read"),
    "api:key_order_set": api("PUT", "credentials"),
    "api:removed_list": api("GET", "read"),
    "api:credential_undo": api("POST", "credentials"),
    "api:budget_get": api("GET", "read"),
    "api:budget_set": api("PUT", "credentials"),
    "api:security_get": api("GET", "read"),
    "api:account_get": api("GET", "read credentials agents gateway"),
    "api:account_export": api("POST", "credentials"),
    "api:account_delete": api("DELETE", ""),
    "api:site_get": site_api("GET", "read", auditor=200),
    "api:site_completions_set": site_api("PUT", "credentials"),
    "api:site_embeddings_set": site_api("PUT", "credentials"),
    "api:site_supervisor_get": site_api("GET", "read", auditor=200),
    "api:site_supervisor_set": site_api("PUT", "credentials"),
    "api:site_models": site_api("POST", "credentials"),
    "api:site_test": site_api("POST", "credentials"),
    "api:agent_list": api("GET", "read agents"),
    "api:run_create": api("POST", "agents"),
    "api:agent_pick": api("POST", "agents"),
    "api:run_list": api("GET", "read agents"),
    "api:run_get": api("GET", "read agents"),
    "api:run_events": api("GET", "read agents"),
    "api:run_cancel": api("POST", "agents"),
    "api:run_retry": api("POST", "agents"),
    "api:attachment_list": api("GET", "read agents"),
    "api:attachment_create": api("POST", "agents"),
    "api:attachment_get": api("GET", "read agents"),
    "api:attachment_read": api("GET", "read agents"),
    "api:attachment_delete": api("DELETE", "agents"),
    "api:run_approve": api("POST", "agents"),
    "api:server_list": api("GET", "read agents"),
    "api:server_create": api("POST", "agents"),
    "api:server_refresh": api("POST", "agents"),
    "api:server_delete": api("DELETE", "agents"),
    "api:tool_approve": api("POST", "agents"),
    "api:tool_withdraw": api("POST", "agents"),
    **{f"api:expense_{what}": api("GET", "read agents") for what in ("list", "get", "totals", "export")},
    "api:expense_create": api("POST", "agents"),
    "api:expense_change": api("PATCH", "agents"),
    "api:expense_delete": api("DELETE", "agents"),
    "api:schedule_list": api("GET", "read agents"),
    "api:schedule_create": api("POST", "agents"),
    "api:schedule_update": api("PATCH", "agents"),
    "api:schedule_delete": api("DELETE", "agents"),
    **{
        f"api:message_{does}": api("POST", "agents")
        for does in ("stop", "retry", "approve", "beside", "continue", "choose", "edit")
    },
    "api:conversation_change": api("PATCH", "agents"),
    "api:conversation_export": api("GET", "read agents"),
    "api:conversation_list": api("GET", "read agents"),
    "api:conversation_near": api("GET", "agents"),
    "api:conversation_create": api("POST", "agents"),
    "api:conversation_get": api("GET", "read agents"),
    "api:conversation_delete": api("DELETE", "agents"),
    "api:message_create": api("POST", "agents"),
    # the admin
    **names("admin:", PUBLIC, "login"),
    **names("admin:", STAFF, "index", "health", "logout", "password_change", "password_change_done", "jsi18n"),
    **names("admin:", STAFF, "view_on_site", "app_list", "?", "autocomplete"),
    **names("admin:llm_credentials_", Rule(kind=Kind.ADMIN), "usage", "usage_export", "key_ring"),
    **names("admin:llm_credentials_", Rule(kind=Kind.ADMIN), "site_allowance", "site_models"),
    "admin:llm_credentials_audit_verify": Rule(kind=Kind.ADMIN, method="POST"),
    **names("admin:llm_credentials_site_", Rule(kind=Kind.ADMIN, method="POST"), "models_save", "models_load"),
    **names("admin:llm_credentials_site_", Rule(kind=Kind.ADMIN, method="POST"), "models_test", "supervisor", "index"),
    "admin:auth_user_password_change": Rule(kind=Kind.ADMIN),
}
"""By the name of the route, with its namespace."""

ADMIN_MODELS = {
    *("agents_conversation", "agents_agentrun", "llm_credentials_usercredential", "llm_credentials_systemcredential"),
    *("llm_credentials_systemconfig", "llm_credentials_llmsettings", "llm_credentials_personalaccesstoken"),
    *("llm_credentials_usagerecord", "llm_credentials_connectiontest", "llm_credentials_auditevent"),
    *("llm_credentials_egressallowance", "llm_credentials_grouppolicy", "llm_credentials_userallowance"),
    *("auth_group", "auth_user", "account_emailaddress", "mfa_authenticator", "usersessions_usersession"),
}
"""Each with the five addresses that every model has."""
ADMIN_PAGES = ("changelist", "add", "history", "delete", "change")


def _admin_rules() -> dict[str, Rule]:
    return {f"admin:{model}_{page}": Rule(kind=Kind.ADMIN) for model in ADMIN_MODELS for page in ADMIN_PAGES}


TABLE = ROUTES | _admin_rules()


ALL = list(routes())


# The owner's things


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


_sessions: dict[int, tuple[str, float]] = {}
"""By user: the key of a session that was begun while all was furnished, and when, on the monotonic clock."""
SESSION_FOR_S = 300.0
"""A third of the time for which a password that was given is proof enough."""


def entered(user: User) -> Client:
    """As ``proven``; in the session of when all was furnished, where that is still good."""
    key, begun_at = _sessions.get(user.pk, ("", 0.0))
    if key and monotonic() - begun_at < SESSION_FOR_S and Session.objects.filter(pk=key).exists():
        client = Client()
        client.cookies[settings.SESSION_COOKIE_NAME] = key
        return client
    return proven(user)


def _enter(user: User) -> None:
    _sessions[user.pk] = (str(proven(user).session.session_key), monotonic())


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
            ids = _furnish(alice)
            _enter(alice)
            for other in _others():
                _enter(other)
    yield ids
    _sessions.clear()
    with django_db_blocker.unblock():
        transaction.set_rollback(True)
        around.__exit__(None, None, None)


@pytest.fixture
def world(furnished: dict[str, str], db: Any) -> World:
    # Long ago for whoever comes late: it could not be undone any more.
    UserCredential.objects.filter(pk=furnished["credential_id"]).update(removed_at=timezone.now())
    return World(alice=User.objects.get(pk=furnished["auth_user"]), ids=dict(furnished))


@pytest.fixture
def bob(world: World) -> User:
    return User.objects.get(username="bob")


@pytest.fixture
def staff(world: World) -> User:
    return User.objects.get(username="staff")


@pytest.fixture
def own_world(alice: User) -> World:
    """For a test whose module has others that begin without her, or that commit."""
    return World(alice=alice, ids=_furnish(alice))


def _furnish(alice: User) -> dict[str, str]:
    """A bit of everything for her; the ids of it, by what addresses call them."""
    credential = UserCredentialFactory(user=alice, key=KEY, model=MARK)
    UserCredentialFactory(user=alice, provider="mistral", name=MARK, key=KEY)
    conversation = Conversation.objects.create(user=alice, agent="conversation", title=MARK)
    conversation.messages.create(position=0, role="user", parts=(TextPart(text=MARK),))
    message = conversation.messages.create(
        position=999, role="assistant", parts=(TextPart(text=MARK),), state="incomplete"
    )
    TaskOverride.objects.create(user=alice, task="code", model=MARK)
    design = {"subject": MARK, "html": MARK, "text": MARK}
    run = AgentRun.objects.create(user=alice, agent="email_design", input=MARK, state=RunState.QUEUED, result=design)
    server = MCPServer.objects.create(user=alice, name="mark", program=MARK)
    schedule = ScheduledRun.objects.create(
        user=alice, agent="conversation", input=MARK, every="day", at=time(8), next_at=timezone.now()
    )
    expense = Expense.objects.create(
        user=alice, vendor=MARK, date=date(2024, 11, 3), currency="EUR", total=5, note=MARK
    )
    test = ConnectionTest.objects.create(user=alice, provider="openai", detail=MARK, state="valid")
    token, _ = services.token_create(user=alice, name=MARK)
    system = SystemCredentialFactory(key=SYSTEM_KEY)
    factor = Authenticator.objects.create(user=alice, type="webauthn", data={"name": MARK, "credential": {}})
    address = EmailAddress.objects.create(user=alice, email=f"{MARK}@example.com", primary=True, verified=True)
    session = UserSession.objects.create(user=alice, session_key=MARK, ip="127.0.0.1", user_agent=MARK)
    Webhook.objects.create(user=alice, url=f"https://{MARK}.example/hook")
    admin_ids = {
        "auth_group": Group.objects.create(name=MARK).pk,
        "account_emailaddress": address.pk,
        "usersessions_usersession": session.pk,
        "agents_conversation": conversation.pk,
        "agents_agentrun": run.pk,
        "llm_credentials_usercredential": credential.pk,
        "llm_credentials_systemcredential": system.pk,
        "llm_credentials_systemconfig": SystemConfig.objects.create(category="llm", key="supervisor", value={}).pk,
        "llm_credentials_egressallowance": EgressAllowance.objects.create(host="ollama.lan", port=11434).pk,
        "llm_credentials_llmsettings": LLMSettings.objects.create(user=alice, default_provider="openai").pk,
        "llm_credentials_personalaccesstoken": token.pk,
        "llm_credentials_grouppolicy": GroupPolicy.objects.create(group=Group.objects.create(name="group")).pk,
        "llm_credentials_userallowance": UserAllowance.objects.create(user=alice, daily_usd=1, note=MARK).pk,
        "llm_credentials_usagerecord": UsageRecordFactory(user=alice, model=MARK).pk,
        "llm_credentials_connectiontest": test.pk,
        "llm_credentials_auditevent": AuditEvent.objects.for_user(alice).earliest("at").pk,
        "auth_user": alice.pk,
        "mfa_authenticator": factor.pk,
    }
    arguments = {
        "conversation_id": conversation.pk,
        "message_id": message.pk,
        "schedule_id": schedule.pk,
        "server_id": server.pk,
        "expense_id": expense.pk,
        "tool_id": server.tools.create(name=MARK, description=MARK, fingerprint="f").pk,
        "run_id": run.pk,
        "name": "mail.eml",
        "attachment_id": attachments.store_bytes(alice, f"{MARK}.txt", MARK.encode()).pk,
        "test_id": test.pk,
        "token_id": token.pk,
        "alert_id": Alert.objects.create(user=alice, kind="webhook_off", detail=MARK, at=timezone.now()).pk,
        "credential_id": UserCredentialFactory(user=alice, name="removed", key=KEY, removed_at=timezone.now()).pk,
        "pk": factor.pk,
        "id": alice.pk,
        "provider": "openai",
        "service": _search_service(alice),
        "agent": "conversation",
        "task": "code",
        "key": "no-key",
        "use": "completions",
        "uidb36": "1",
        "content_type_id": ContentType.objects.get_for_model(User).pk,
        "app_label": "llm_credentials",
        "url": "nowhere",
        "object_id": alice.pk,
    }
    return {name: str(value) for name, value in {**arguments, **admin_ids}.items()}


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


# Who asks


def _others() -> Iterator[User]:
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


def _deactivated() -> Client:
    gone = User.objects.filter(username="gone")
    gone.update(is_active=True)  # or a session that has become too old could not be begun anew
    client = entered(gone.get())
    gone.update(is_active=False)
    return client


def _staff(*apps: str) -> User:
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


def _text(response: Any) -> str:
    if response.streaming:
        return ""
    return str(response.content.decode(errors="replace"))


def _check_empty(response: Any, who: str) -> None:
    text = _text(response)
    assert response.status_code < 500, who
    for secret in (MARK, KEY, SYSTEM_KEY, "v1:t1:"):
        assert secret not in text, f"{who} saw {secret}"


def _is_login(response: Any) -> bool:
    place = str(response.headers.get("Location", "")) + str(response.headers.get("HX-Redirect", ""))
    return "/login/" in place


METHODS = ("GET", "POST", "DELETE")


# The matrix


def test_every_route_has_an_expectation() -> None:
    assert {route.name for route in ALL} == set(TABLE)


def _of(*kinds: Kind) -> list[Route]:
    return [route for route in ALL if route.name in TABLE and TABLE[route.name].kind in kinds]


PAGES = _of(Kind.OWN, Kind.OWNED)


@pytest.mark.parametrize("route", _of(Kind.PUBLIC), ids=str)
def test_public_page_shows_nothing_of_anybody(world: World, bob: User, route: Route) -> None:
    before = world.state()
    path = path_of(route, world)
    for who, client in (("anonymous", Client()), ("bob", entered(bob)), ("deactivated", _deactivated())):
        for method in METHODS:
            _check_empty(ask(client, method, path), f"{who} {method}")
    assert world.state() == before


@pytest.mark.any_database
@pytest.mark.parametrize("route", PAGES, ids=str)
def test_page_asks_for_login(world: World, route: Route) -> None:
    """Anonymous, deactivated, or with a token, which opens no page."""
    path = path_of(route, world)
    _, secret = services.token_create(user=world.alice)
    before = world.state()
    header = {"Authorization": f"Bearer {secret}"}
    callers = (("anonymous", Client(), {}), ("gone", _deactivated(), {}), ("token", Client(), header))
    for who, client, headers in callers:
        for method in METHODS:
            for htmx in ({}, {"HX-Request": "true"}):
                response = ask(client, method, path, **headers, **htmx)
                _check_empty(response, f"{who} {method}")
                assert response.status_code == 405 or _is_login(response), f"{who} {method} {response.status_code}"
        assert _is_login(ask(client, TABLE[route.name].method, path, **headers)), who
    assert world.state() == before


@pytest.mark.parametrize("route", PAGES, ids=str)
def test_page_gives_others_nothing_of_the_owner(world: World, bob: User, staff: User, route: Route) -> None:
    """A colleague, staff without a permission, and even staff with every permission."""
    before = world.state()
    rule = TABLE[route.name]
    for who, user in (("bob", bob), ("clerk", _staff()), ("staff", staff)):
        client = entered(user)
        for method in METHODS:
            for htmx in ({}, {"HX-Request": "true"}):
                response = ask(client, method, path_of(route, world), **htmx)
                _check_empty(response, f"{who} {method}")
                if rule.kind is Kind.OWNED:
                    assert response.status_code in (404, 405), f"{who} {method} {response.status_code}"
        if rule.kind is Kind.OWNED:
            assert ask(client, rule.method, path_of(route, world)).status_code == 404, who
    assert world.state() == before


@pytest.mark.parametrize("route", _of(Kind.OWNED), ids=str)
def test_owner_is_let_in(world: World, route: Route) -> None:
    """Or what is said above of others would say nothing."""
    response = ask(entered(world.alice), TABLE[route.name].method, path_of(route, world))
    assert response.status_code not in (401, 403, 404, 405)
    assert not _is_login(response)


@pytest.mark.any_database
@pytest.mark.parametrize("route", [each for each in PAGES if TABLE[each.name].method == "POST"], ids=str)
def test_post_without_csrf_token_is_refused(world: World, route: Route) -> None:
    client = entered(world.alice)
    client.handler.enforce_csrf_checks = True
    before = world.state()
    assert ask(client, "POST", path_of(route, world)).status_code == 403
    assert world.state() == before


# The API


def _expired(user: User) -> str:
    token, secret = services.token_create(user=user)
    PersonalAccessToken.objects.filter(pk=token.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    return secret


def _revoked(user: User) -> str:
    token, secret = services.token_create(user=user)
    services.token_revoke(user=user, token_id=token.pk)
    return secret


def _of_a_deactivated_user() -> str:
    user = User.objects.create_user("left", "left@example.com", "left-password")
    _, secret = services.token_create(user=user)
    User.objects.filter(pk=user.pk).update(is_active=False)
    return secret


@pytest.mark.parametrize("route", _of(Kind.API, Kind.SITE_API), ids=str)
def test_api_refuses_whoever_has_no_valid_token(world: World, route: Route) -> None:
    path, method = path_of(route, world), TABLE[route.name].method
    _, good = services.token_create(user=world.alice)
    bad = {
        "none": {},
        "expired": {"Authorization": f"Bearer {_expired(world.alice)}"},
        "revoked": {"Authorization": f"Bearer {_revoked(world.alice)}"},
        "deactivated": {"Authorization": f"Bearer {_of_a_deactivated_user()}"},
        "injected": {"Authorization": "Bearer ' OR 1=1 --"},
        "basic": {"Authorization": f"Basic {good}"},
        "x-api-key": {"X-Api-Key": good},
        "cookie": {"Cookie": f"token={good}"},
    }
    before = world.state()
    for who, headers in bad.items():
        response = ask(Client(), method, path, **headers)
        _check_empty(response, who)
        assert response.status_code == 401, who
    assert ask(Client(), method, f"{path}?token={good}&api_key={good}").status_code == 401
    assert ask(_deactivated(), method, path).status_code == 401
    assert world.state() == before


@pytest.mark.parametrize("route", _of(Kind.API), ids=str)
def test_api_wants_the_scope(world: World, route: Route) -> None:
    """A token of each scope alone; with the right one the owner is let in."""
    rule = TABLE[route.name]
    path = path_of(route, world)
    if route.name.startswith("api:model_list"):
        path = path.replace("openai", "groq")  # of a stored key the provider would be asked
    for scope in services.ALL_SCOPES:
        _, secret = services.token_create(user=world.alice, scopes=[scope])
        response = ask(Client(), rule.method, path, Authorization=f"Bearer {secret}")
        if scope in rule.scope.split():
            assert response.status_code not in (401, 403, 404, 405), scope
        else:
            assert response.status_code == 403, scope
            _check_empty(response, scope)


@pytest.mark.parametrize("route", _of(Kind.API), ids=str)
def test_api_gives_others_nothing_of_the_owner(world: World, bob: User, staff: User, route: Route) -> None:
    for user in (bob, _staff(), staff):
        _, secret = services.token_create(user=user)
        before = world.state()
        path, method = path_of(route, world), TABLE[route.name].method
        _check_empty(ask(Client(), method, path, Authorization=f"Bearer {secret}"), f"{user} token")
        _check_empty(ask(entered(user), method, path), f"{user} session")
        # Whose token it is decides, whoever is logged in beside it.
        mixed = ask(entered(world.alice), method, path, Authorization=f"Bearer {secret}")
        _check_empty(mixed, f"{user} token beside the owner's session")
        assert world.state() == before


@pytest.mark.any_database
@pytest.mark.parametrize(
    "route", [each for each in _of(Kind.API, Kind.SITE_API) if TABLE[each.name].method != "GET"], ids=str
)
def test_api_wants_a_csrf_token_of_sessions(world: World, route: Route) -> None:
    client = entered(world.alice)
    client.handler.enforce_csrf_checks = True
    before = world.state()
    assert ask(client, TABLE[route.name].method, path_of(route, world)).status_code == 403
    assert world.state() == before


@pytest.mark.parametrize("route", _of(Kind.SITE_API), ids=str)
def test_site_api_is_for_staff_with_the_permission(world: World, bob: User, staff: User, route: Route) -> None:
    """By token and by session: nobody else, whatever the scope, and of auditors those who may look."""
    rule, path = TABLE[route.name], path_of(route, world)
    for user, status in ((bob, 403), (world.alice, 403), (_staff(), 403), (_staff("llm_credentials"), rule.auditor)):
        _, secret = services.token_create(user=user, name="of who asks")
        asked = (
            ask(Client(), rule.method, path, Authorization=f"Bearer {secret}"),
            ask(entered(user), rule.method, path),
        )
        for response in asked:
            _check_empty(response, user.username)
            assert response.status_code == status, user.username
    for scope in services.ALL_SCOPES:
        _, secret = services.token_create(user=staff, scopes=[scope])
        response = ask(Client(), rule.method, path, Authorization=f"Bearer {secret}")
        assert (response.status_code == 403) == (scope != rule.scope), scope


# The admin


@pytest.mark.any_database
@pytest.mark.parametrize("route", _of(Kind.STAFF, Kind.ADMIN), ids=str)
def test_admin_is_closed_to_everybody_else(world: World, bob: User, route: Route) -> None:
    before = world.state()
    for who, client in (("anonymous", Client()), ("bob", entered(bob)), ("deactivated", _deactivated())):
        for method in METHODS:
            response = ask(client, method, path_of(route, world))
            _check_empty(response, f"{who} {method}")
            assert response.status_code in (302, 403, 405), f"{who} {method} {response.status_code}"
    assert world.state() == before


@pytest.mark.any_database
@pytest.mark.parametrize("route", _of(Kind.STAFF, Kind.ADMIN), ids=str)
def test_admin_shows_staff_without_permission_nothing(world: World, route: Route) -> None:
    client = entered(_staff())
    before = world.state()
    for method in METHODS:
        response = ask(client, method, path_of(route, world))
        _check_empty(response, method)
        if TABLE[route.name].kind is Kind.ADMIN:
            assert response.status_code in (403, 405), f"{method} {response.status_code}"
        client = client if client.session.get("_auth_user_id") else entered(User.objects.get(username="clerk"))
    assert world.state() == before
